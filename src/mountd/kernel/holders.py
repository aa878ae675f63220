"""Who keeps a mount busy, in this mount namespace and in those that have a copy of it."""

import os
from collections.abc import Iterator

from mountd.core.faults import A_MOUNT
from mountd.core.mountinfo import Line, parse_mountinfo
from mountd.kernel.observe import children_of, mountinfo
from mountd.kernel.statmount import HAS_STATMOUNT, statmount
from mountd.kernel.syscalls import reusable_mount_id


def holders_of(mount: int, *, writing: bool = False) -> list[str]:
    """What is in use below a mount, as words: `bash (pid 812)`, `the mount at /data/cache`.

    umount2(2) says only EBUSY. A process in a copy of the mount, which propagation made in another
    namespace, is in the way too. `writing`: only who has a file there open for writing.
    """
    mounts = [] if writing else children_of(mount)
    points = [f"{A_MOUNT}{each.point}" for each in mounts]
    return points + list(processes_in(mount, writing=writing))


def processes_in(mount: int, *, writing: bool = False) -> Iterator[str]:
    """The processes among these."""
    processes = [each for each in os.listdir("/proc") if each.isdigit()]
    ids = _copies(mount, processes)
    for process in processes:
        if int(process) == os.getpid():
            continue
        try:
            paths = _writable_paths(process) if writing else _paths(process)
            if any(_lies_on(path, ids) for path in paths):
                with open(f"/proc/{process}/comm", errors="replace") as comm:
                    yield f"{comm.read().strip()} (pid {process})"
        except OSError:
            continue  # it has ended meanwhile, or is none of ours to look into


def _copies(mount: int, processes: list[str]) -> set[int]:
    """The mount's reusable id, and those of its copies: peers, slaves, and slaves of those."""
    ids = {statmount(mount).reusable_id if HAS_STATMOUNT else mount}
    own = (line.tags for line in parse_mountinfo(mountinfo()) if line.mount.id in ids)
    groups = {group for tags in own for group in _groups(tags)}
    lines = list(_lines_of_all_namespaces(processes)) if groups else []
    while True:
        tags = {f"{kind}:{group}" for group in groups for kind in ("shared", "master")}
        kin = [line for line in lines if line.tags & tags]
        ids |= {line.mount.id for line in kin}
        more = {group for line in kin for group in _groups(line.tags)}
        if more <= groups:
            return ids
        groups |= more


def _groups(tags: frozenset[str]) -> list[str]:
    """The groups of peers that a mount with these tags is in: one at most."""
    return [tag.removeprefix("shared:") for tag in tags if tag.startswith("shared:")]


def _lines_of_all_namespaces(processes: list[str]) -> Iterator[Line]:
    seen = set()
    for process in processes:
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace not in seen:
                yield from parse_mountinfo(mountinfo(process))
            seen.add(namespace)
        except OSError:
            continue


def _paths(process: str) -> Iterator[str]:
    for name in ("cwd", "root", "exe"):
        yield f"/proc/{process}/{name}"
    for folder in ("fd", "map_files"):
        for entry in os.listdir(f"/proc/{process}/{folder}"):
            yield f"/proc/{process}/{folder}/{entry}"


def _writable_paths(process: str) -> Iterator[str]:
    for entry in os.listdir(f"/proc/{process}/fd"):
        if os.lstat(f"/proc/{process}/fd/{entry}").st_mode & 0o200:  # as it was opened (proc(5))
            yield f"/proc/{process}/fd/{entry}"


def _lies_on(path: str, mounts: set[int]) -> bool:
    try:
        return reusable_mount_id(path) in mounts
    except OSError:
        return False  # a kernel thread's exe, a descriptor closed meanwhile
