"""The mount table, by listmount(2) and statmount(2) (Linux 6.8), before that by mountinfo.

Both list the same mounts under different ids; statx(2) is asked for the kind of id that matches.
"""

import os
from collections.abc import Iterable, Iterator
from errno import ENOENT

from mountd.core.idmapping import Idmapping, parsed_text
from mountd.core.model import Atime, Flags, Ids
from mountd.core.mountinfo import (
    options_of,
    parse_children,
    parse_mount,
    parse_mountinfo,
    parse_user,
)
from mountd.core.mounts import Observed, ObservedMount, Top
from mountd.kernel import served
from mountd.kernel.files import Stat, look, statx
from mountd.kernel.mount_api import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    SB_RDONLY,
)
from mountd.kernel.statmount import HAS_STATMOUNT, MountStat, listmount, statmount
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

ATIMES: dict[Atime, int] = {
    "relatime": 0,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
}
_ATIME_OF = {value: word for word, value in ATIMES.items()}


def observe() -> Observed:
    """Every mount that can be reached from our root; it waits for no server."""
    if not HAS_STATMOUNT:
        lines = parse_mountinfo(mountinfo())
        mounts = {mount.id: mount for mount, _ in lines}
        served.learn(mounts.values())
        return Observed(mounts, {}, tells_idmaps=False)
    mounts = {}
    tells_idmaps = True
    for found in _stats(listmount()):
        mounts[found.id] = _observed(found)
        tells_idmaps = found.tells_maps
    served.learn(mounts.values())
    return Observed(mounts, {}, tells_idmaps)


def observe_mount(mount_id: int) -> ObservedMount:
    """One mount by its id; ENOENT where it isn't, or no longer is, in this namespace.

    By mountinfo that reads the whole table: 1 ms for 1,000 mounts.
    """
    if HAS_STATMOUNT:
        return _observed(statmount(mount_id))
    mount = parse_mount(mountinfo(), mount_id)
    if not mount:
        raise FileNotFoundError(ENOENT, f"mountinfo: {os.strerror(ENOENT)} (mount {mount_id})")
    return mount


def is_mounted(mount_id: int) -> bool:
    """Whether a mount with this id is attached in this namespace; it costs as `observe_mount`."""
    try:
        observe_mount(mount_id)
    except FileNotFoundError:
        return False
    return True


def user_behind(mount_id: int, *, alone: bool = False) -> int | None:
    """Whose FUSE server a mount's files are told by; None: nobody's, or the machine's own.

    `alone`: only of a mount that lets nobody else in.
    What such a server says of owners and modes proves nothing. ENOENT as of `observe_mount`.
    """
    number = mount_id
    if HAS_STATMOUNT:
        found = statmount(mount_id)
        if found.fs_type not in ("fuse", "fuseblk"):
            return None
        number = found.reusable_id  # that options come by statmount(2) too is news of Linux 6.11
    try:
        return parse_user(mountinfo(), number, alone=alone)
    except LookupError as error:
        said = f"mountinfo: {os.strerror(ENOENT)} (mount {mount_id})"
        raise FileNotFoundError(ENOENT, said) from error


def options_in_force(device: int) -> frozenset[str]:
    """What the filesystem of a mounted device was mounted with, as far as it tells."""
    return options_of(mountinfo(), device)


def children_of(mount_id: int) -> list[ObservedMount]:
    """The mounts that lie right on this one, stacked ones too; by mountinfo that reads it all."""
    if not HAS_STATMOUNT:
        return list(parse_children(mountinfo(), mount_id))
    below = map(_observed, _stats(listmount(mount_id)))  # the children's children too
    return [mount for mount in below if mount.parent == mount_id]


def descendants_of(mount_id: int) -> list[ObservedMount]:
    """All that is mounted on a mount, or on what is, each before what is mounted on it."""
    if HAS_STATMOUNT:
        mounts = [*map(_observed, _stats(listmount(mount_id)))]
    else:
        mounts = [mount for mount, _ in parse_mountinfo(mountinfo())]
    children: dict[int, list[ObservedMount]] = {}
    for mount in mounts:
        children.setdefault(mount.parent, []).append(mount)
    found = children.pop(mount_id, [])
    for each in found:  # which grows
        found += children.pop(each.id, ())
    return found


def is_at(path: str, mount_id: int) -> bool:
    """Whether it is this mount that a path leads to."""
    try:
        return look(None, path).mount == mount_id
    except (FileNotFoundError, NotADirectoryError):
        return False


def top_at(path: str) -> Top | None:
    """The topmost mount at a path that has no links, None where nothing is mounted there.

    It waits for no server at the path itself, but for one of a folder above; the owner is the last
    one known.
    """
    try:
        return _top(look(None, path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def top_of(folder: Fd) -> Top | None:
    """The same for what is open: None where no mount begins there."""
    return _top(statx(folder, flags=AT_STATX_DONT_SYNC))


def _top(found: Stat) -> Top | None:
    if not found.is_mount_root:
        return None
    return Top(found.mount, found.device, found.inode, Ids(found.uid, found.gid))


def mountinfo(process: str = "self") -> str:
    """The mount table of a process's namespace, as text."""
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return os.fsdecode(file.read())


def _stats(ids: Iterable[int]) -> Iterator[MountStat]:
    for mount_id in ids:
        try:
            yield statmount(mount_id)
        except FileNotFoundError:
            continue  # taken off since the list was made


def _observed(found: MountStat) -> ObservedMount:
    is_mapped = found.uid_map is not None or found.gid_map is not None
    return ObservedMount(
        found.id,
        found.parent,
        found.point,
        found.root,
        found.fs_type,
        found.device,
        Flags(
            bool(found.attributes & MOUNT_ATTR_RDONLY),
            bool(found.attributes & MOUNT_ATTR_NOSUID),
            bool(found.attributes & MOUNT_ATTR_NODEV),
            bool(found.attributes & MOUNT_ATTR_NOEXEC),
            _ATIME_OF[found.attributes & MOUNT_ATTR__ATIME],
        ),
        bool(found.sb_flags & SB_RDONLY),
        Idmapping(parsed_text(found.uid_map or ()), parsed_text(found.gid_map or ()))
        if is_mapped
        else None,
        bool(found.attributes & MOUNT_ATTR_IDMAP),
        found.peers,
        found.master,
    )
