"""Who keeps a mount busy, in this mount namespace and in those that have a copy of it."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from mountd.kernel.observe import observe_mount
from mountd.kernel.syscalls import listmount, reusable_mount_id, statmount


class _Line(NamedTuple):
    """What a line of mountinfo (proc(5)) tells of a mount and its propagation."""

    id: int
    tags: set[str]


def holders_of(mount: int, *, writing: bool = False) -> list[str]:
    """What is in use below a mount, as words: `bash (pid 812)`, `the mount at /data/cache`.

    umount2(2) says only EBUSY. A process in a copy of the mount, which propagation made in another
    namespace, is in the way too. `writing`: only who has a file there open for writing.
    """
    mounts = [] if writing else [observe_mount(each).point for each in listmount(mount)]
    return [f"the mount at {point}" for point in mounts] + list(_processes(mount, writing))


def _processes(mount: int, writing: bool) -> Iterator[str]:
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
    found = statmount(mount)
    ids = {found.reusable_id}
    groups = {found.peer_group} - {0}
    lines = list(_lines_of_all_namespaces(processes)) if groups else []
    while True:
        tags = {f"{kind}:{group}" for group in groups for kind in ("shared", "master")}
        kin = [line for line in lines if line.tags & tags]
        ids |= {line.id for line in kin}
        more = {
            int(tag.removeprefix("shared:"))
            for line in kin
            for tag in line.tags
            if tag.startswith("shared:")
        }
        if more <= groups:
            return ids
        groups |= more


def _lines_of_all_namespaces(processes: list[str]) -> Iterator[_Line]:
    seen = set()
    for process in processes:
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace in seen:
                continue
            with open(f"/proc/{process}/mountinfo", errors="replace") as lines:
                for line in lines:
                    words = line.split()
                    yield _Line(int(words[0]), set(words[6 : words.index("-")]))
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
