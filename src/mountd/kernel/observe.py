"""The mount table, by listmount(2) and statmount(2) (Linux 6.8)."""

from errno import ENOENT

from mountd.core.idmapping import Idmapping, parsed_text
from mountd.core.model import Atime, Flags, Ids, Observed, ObservedMount, Top
from mountd.kernel.syscalls import (
    AT_STATX_DONT_SYNC,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    SB_RDONLY,
    MountStat,
    listmount,
    statmount,
    statx,
)

ATIMES: dict[Atime, int] = {
    "relatime": 0,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
}
_ATIME_OF = {value: word for word, value in ATIMES.items()}


def observe() -> Observed:
    """Every mount that can be reached from our root; it waits for no server."""
    mounts: dict[int, ObservedMount] = {}
    tells_idmaps = True
    for mount_id in listmount():
        try:
            found = statmount(mount_id)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            continue  # taken off since the list was made
        mounts[mount_id] = _observed(found)
        tells_idmaps = found.tells_maps
    return Observed(mounts, {}, tells_idmaps)


def observe_mount(mount_id: int) -> ObservedMount:
    """One mount by its unique id; ENOENT where it isn't, or no longer is, in this namespace."""
    return _observed(statmount(mount_id))


def is_mounted(mount_id: int) -> bool:
    """Whether a mount with this unique id is attached in this namespace."""
    try:
        statmount(mount_id)
    except OSError as error:
        if error.errno != ENOENT:
            raise
        return False
    return True


def is_at(path: str, mount_id: int) -> bool:
    """Whether it is this mount that a path leads to."""
    try:
        return statx(None, path, flags=AT_STATX_DONT_SYNC).mount == mount_id
    except (FileNotFoundError, NotADirectoryError):
        return False


def top_at(path: str) -> Top | None:
    """The topmost mount at a path that has no links, None where nothing is mounted there.

    It waits for no server at the path itself, but for one of a folder above; the owner is the last
    one known.
    """
    try:
        found = statx(None, path, flags=AT_STATX_DONT_SYNC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not found.is_mount_root:
        return None
    return Top(found.mount, found.device, found.inode, Ids(found.uid, found.gid))


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
    )
