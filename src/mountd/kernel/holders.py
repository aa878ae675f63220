"""Who keeps a mount busy, in this mount namespace and in those that have a copy of it.

To list /proc/PID/map_files waits for that process's mmap lock, which its user can hold for ever; so
a child looks (`road`), process by process, and what doesn't come along is left out.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Literal

from mountd.core.mountinfo import Line, parse_mountinfo
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.mount_faults import A_MOUNT
from mountd.kernel.files import reusable_mount_id
from mountd.kernel.observe import children_of, mountinfo
from mountd.kernel.statmount import HAS_STATMOUNT, statmount

_PATIENCE = 4.0
"""Seconds for all processes."""
_STALL = 0.5
"""Seconds for one."""


class Holders(NamedTuple):
    """What is in use below a mount, as words: `bash (pid 812)`, `the mount at /data/cache`.

    `unseen`: why there may be more of them, None where all was seen.
    """

    found: list[str]
    unseen: str | None = None


def holders_of(mount: int, *, writing: bool = False) -> Holders:
    """Who keeps a mount busy: umount2(2) says only EBUSY.

    A process in a copy of the mount, which propagation made in another namespace, is in the way
    too. `writing`: only who has a file there open for writing.
    """
    mounts = [] if writing else children_of(mount)
    points = [f"{A_MOUNT}{each.point}" for each in mounts]
    found, unseen = processes_in(mount, writing=writing)
    return Holders(points + found, unseen)


_Where = Literal["places", "files", "writing", "maps"]
_Question = tuple[str, _Where]


def processes_in(mount: int, *, writing: bool = False) -> Holders:
    """The processes among these."""
    own = str(os.getpid())
    processes = [each for each in os.listdir("/proc") if each.isdigit() and each != own]
    search = _Search(mount, processes)
    found: dict[str, str] = {}
    try:
        # what may take long comes later, and what may hang last
        stages: list[_Where] = ["writing"] if writing else ["places", "files", "maps"]
        for where in stages:
            for process in processes:
                if process not in found and (who := search.ask((process, where))):
                    found[process] = who
    except TimeoutError:
        return Holders([*found.values()], f"the search was given up after {_PATIENCE:g} s")
    except OSError as error:
        return Holders([*found.values()], f"nobody could search: {error.strerror}")
    finally:
        search.end()
    stalled = ", ".join(sorted(search.stalled - found.keys(), key=int)[:5])
    return Holders(
        [*found.values()], f"pid {stalled} could not be looked into in time" if stalled else None
    )


class _Search:
    """Asks children, one after the other: the next goes on where one got stuck."""

    def __init__(self, mount: int, processes: Sequence[str]) -> None:
        self.stalled: set[str] = set()
        self._mount = mount
        self._processes = processes
        self._ends = monotonic() + _PATIENCE
        self._ids: set[int] | None = None
        self._child: Any = None

    def ask(self, question: _Question) -> str | None:
        """Who that is, if it is a holder. Raises TimeoutError at the end, and NoChildError."""
        if self._ids is None:
            self._ids = self._answer(
                lambda _: _copies(self._mount, self._processes), None, _PATIENCE
            )
            self.end()
        if question[0] in self.stalled:
            return None
        try:
            who: str | None = self._answer(self._look, question, _STALL)
        except TimeoutError:
            if monotonic() >= self._ends:
                raise
            self.stalled.add(question[0])
            return None
        return who

    def _answer(self, look: Callable[[Any], Any], question: object, seconds: float) -> Any:
        from mountd.kernel.road import Child  # noqa: PLC0415 - see patience

        self._child = self._child or Child(look)
        self._child.ask(question)
        ends = min(monotonic() + seconds, self._ends)
        with suppress(EOFError):
            while self._child.wait(ends - monotonic()):
                if answer := self._child.hear():
                    if answer.error:
                        raise answer.error
                    return answer.found
        self.end()
        raise TimeoutError

    def _look(self, question: _Question) -> str | None:
        process, where = question
        assert self._ids is not None, "it was asked for first"
        try:
            if any(_lies_on(path, self._ids) for path in _PATHS[where](process)):
                with open(f"/proc/{process}/comm", errors="replace") as comm:
                    return f"{comm.read().strip()} (pid {process})"
        except OSError:
            pass  # it has ended meanwhile, or is none of ours to look into
        return None

    def end(self) -> None:
        """Leave the child; it ends as soon as it can."""
        if self._child:
            self._child.abandon()
            self._child = None


def _copies(mount: int, processes: Sequence[str]) -> set[int]:
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


def _lines_of_all_namespaces(processes: Sequence[str]) -> Iterator[Line]:
    seen = set()
    for process in processes:
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace not in seen:
                yield from parse_mountinfo(mountinfo(process))
            seen.add(namespace)
        except OSError:
            continue


def _places(process: str) -> Iterator[str]:
    for name in ("cwd", "root", "exe"):
        yield f"/proc/{process}/{name}"


def _files(process: str) -> Iterator[str]:
    yield from _entries(process, "fd")


def _maps(process: str) -> Iterator[str]:
    yield from _entries(process, "map_files")


def _entries(process: str, folder: str) -> Iterator[str]:
    with os.scandir(f"/proc/{process}/{folder}") as entries:
        for each in entries:
            yield each.path


def _writable(process: str) -> Iterator[str]:
    for path in _entries(process, "fd"):
        if os.lstat(path).st_mode & 0o200:  # as it was opened (proc(5))
            yield path


_PATHS = {"places": _places, "files": _files, "maps": _maps, "writing": _writable}


def _lies_on(path: str, mounts: set[int]) -> bool:
    try:
        return reusable_mount_id(path) in mounts
    except OSError:
        return False  # a kernel thread's exe, a descriptor closed meanwhile
