"""Who keeps a mount busy, in this mount namespace and in those that have a copy of it."""

import os
from collections.abc import Iterator

from mountd.kernel.observe import observe_mount
from mountd.kernel.syscalls import listmount, reusable_mount_id, statmount


def holders_of(mount: int) -> list[str]:
    """What is in use below a mount, as words: `bash (pid 812)`, `the mount at /data/cache`.

    umount2(2) says only EBUSY. A process in a peer's or slave's copy of the mount (one that its
    propagation made in another namespace) is in the way too.
    """
    mounts = [f"the mount at {observe_mount(each).point}" for each in listmount(mount)]
    return mounts + list(_processes(mount))


def _processes(mount: int) -> Iterator[str]:
    found = statmount(mount)
    ids = {os.readlink("/proc/self/ns/mnt"): {found.reusable_id}}
    for process in filter(str.isdigit, os.listdir("/proc")):
        if int(process) == os.getpid():
            continue
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace not in ids:
                ids[namespace] = _copies(process, found.peer_group)
            wanted = ids[namespace]
            if wanted and any(_lies_on(path, wanted) for path in _paths(process)):
                with open(f"/proc/{process}/comm", errors="replace") as comm:
                    yield f"{comm.read().strip()} (pid {process})"
        except OSError:
            continue  # it has ended meanwhile, or is none of ours to look into


def _copies(process: str, peer_group: int) -> set[int]:
    """The mounts in a process's namespace that propagation keeps equal to ours (proc(5))."""
    if not peer_group:
        return set()
    tags = {f"shared:{peer_group}", f"master:{peer_group}"}
    with open(f"/proc/{process}/mountinfo", errors="replace") as lines:
        return {int(words[0]) for line in lines if tags & set((words := line.split())[6:9])}


def _paths(process: str) -> Iterator[str]:
    for name in ("cwd", "root", "exe"):
        yield f"/proc/{process}/{name}"
    for folder in ("fd", "map_files"):
        for entry in os.listdir(f"/proc/{process}/{folder}"):
            yield f"/proc/{process}/{folder}/{entry}"


def _lies_on(path: str, mounts: set[int]) -> bool:
    try:
        return reusable_mount_id(path) in mounts
    except OSError:
        return False  # a kernel thread's exe, a descriptor closed meanwhile
