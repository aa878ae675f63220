"""The mount table by statmount(2) and listmount(2), Linux 6.8; structs as in linux/mount.h."""

import ctypes
import os
from collections.abc import Iterable, Iterator
from ctypes import c_size_t, c_uint, c_void_p
from errno import EOVERFLOW
from struct import Struct

from mountd.core.mounts import TOO_DEEP, bounded
from mountd.core.named_tuple import NamedTuple
from mountd.kernel.binding import bind, is_there

STATMOUNT_SB_BASIC = 0x01
STATMOUNT_MNT_BASIC = 0x02
STATMOUNT_MNT_ROOT = 0x08
STATMOUNT_MNT_POINT = 0x10
STATMOUNT_FS_TYPE = 0x20
STATMOUNT_SUPPORTED_MASK = 0x1000  # Linux 6.15, as the two below
STATMOUNT_MNT_UIDMAP = 0x2000
STATMOUNT_MNT_GIDMAP = 0x4000

LSMT_ROOT = 0xFFFFFFFFFFFFFFFF

_statmount = bind("statmount", 457, c_void_p, c_void_p, c_size_t, c_uint)
_listmount = bind("listmount", 458, c_void_p, c_void_p, c_size_t, c_uint)

HAS_STATMOUNT = is_there(_statmount, None, None, 0, 1) and is_there(_listmount, None, None, 0, 1)
"""Whether statmount(2) and listmount(2) tell of mounts (Linux 6.8), else /proc/self/mountinfo."""


class MountStat(NamedTuple):
    """What statmount(2) tells of a mount; the maps are lines as in uid_map, None if it has none."""

    id: int
    parent: int
    reusable_id: int
    attributes: int
    peers: int
    master: int
    sb_flags: int
    root: str
    point: str
    fs_type: str
    device: int
    uid_map: tuple[bytes, ...] | None
    gid_map: tuple[bytes, ...] | None
    tells_maps: bool


def statmount(mount: int) -> MountStat:
    """What the kernel knows of the mount with this unique id; ENOENT if it isn't in this namespace.

    The ids seen in its maps are translated into the caller's user namespace.
    """
    return _mount_stat(_answer(mount, _STATMOUNT_ALL).raw)


def _answer(
    mount: int, mask: int, buffer: ctypes.Array[ctypes.c_char] | None = None
) -> ctypes.Array[ctypes.c_char]:
    """What is told of a mount, in this buffer or, where that is too small, in a larger one.

    A mount's paths may be longer than PATH_MAX. One of more than 2 MiB isn't asked for.
    """
    request = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, mount, mask)
    buffer = buffer or ctypes.create_string_buffer(8192)
    while True:
        try:
            _statmount(request, buffer, len(buffer), 0)
        except OSError as error:
            if error.errno != EOVERFLOW:
                raise
        else:
            return buffer
        if len(buffer) > _MOST_BYTES:
            mask &= ~(STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT)
            request = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, mount, mask)
        else:
            buffer = ctypes.create_string_buffer(len(buffer) * 8)


def _mount_stat(raw: bytes) -> MountStat:
    (
        mask, major, minor, sb_flags, fs_type, id_, parent, reusable_id, attributes, peers, master,
        root, point, supported, uids, uids_at, gids, gids_at,
    ) = _STATMOUNT.unpack_from(raw)  # fmt: skip

    untold = TOO_DEEP if len(raw) > _MOST_BYTES else ""

    def text(offset: int) -> bytes:
        start = _STATMOUNT_STRINGS + offset
        return raw[start : raw.index(0, start)]

    def lines(count: int, offset: int) -> tuple[bytes, ...]:
        return tuple(raw[_STATMOUNT_STRINGS + offset :].split(b"\0", count)[:count])

    return MountStat(
        id_,
        parent,
        reusable_id,
        attributes,
        peers,
        master,
        sb_flags,
        bounded(os.fsdecode(text(root))) if mask & STATMOUNT_MNT_ROOT else untold,
        bounded(os.fsdecode(text(point))) if mask & STATMOUNT_MNT_POINT else untold,
        os.fsdecode(text(fs_type)),
        os.makedev(major, minor),
        lines(uids, uids_at) if mask & STATMOUNT_MNT_UIDMAP else None,
        lines(gids, gids_at) if mask & STATMOUNT_MNT_GIDMAP else None,
        bool(supported & STATMOUNT_MNT_UIDMAP),
    )


_PATH_MAX = 4096
_MOST_BYTES = 2 << 20
_SIZE = Struct("=I")
_MNT_ID_REQ = Struct("=IIQQ")
_STATMOUNT_ALL = (
    STATMOUNT_SB_BASIC
    | STATMOUNT_MNT_BASIC
    | STATMOUNT_MNT_ROOT
    | STATMOUNT_MNT_POINT
    | STATMOUNT_FS_TYPE
    | STATMOUNT_SUPPORTED_MASK
    | STATMOUNT_MNT_UIDMAP
    | STATMOUNT_MNT_GIDMAP
)
_STATMOUNT_CHANGING = STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | STATMOUNT_MNT_POINT
_STATMOUNT = Struct("=8xQII8xIIQQI4xQ8xQQ8xII32xQIIII")
_STATMOUNT_STRINGS = 512


def fingerprints(mounts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """For each mount that is there, what differs once it is moved or has other flags.

    Its idmapping and root can't change. It costs a third of what `statmount` does.
    """
    buffer = (ctypes.c_char * (_STATMOUNT_STRINGS + _PATH_MAX))()
    for mount in mounts:
        try:
            found = _answer(mount, _STATMOUNT_CHANGING, buffer)
        except FileNotFoundError:
            continue
        view = memoryview(found)
        yield mount, hash(view[: _SIZE.unpack_from(view)[0]].tobytes())


def listmount(mount: int = LSMT_ROOT) -> list[int]:
    """The unique ids of the mounts below one, or of all that can be reached from our root."""
    found: list[int] = []
    buffer = (ctypes.c_uint64 * 1024)()
    while True:
        request = _MNT_ID_REQ.pack(_MNT_ID_REQ.size, 0, mount, found[-1] if found else 0)
        count = _listmount(request, buffer, len(buffer), 0)
        found += buffer[:count]
        if count < len(buffer):
            return found
