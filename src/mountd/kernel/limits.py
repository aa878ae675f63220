"""The limits that are reached here: the number of each that is in force, and what raises it.

The errno tells what ran out, not at which number: that is read from where the kernel has it.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from errno import EAGAIN, EMFILE, ENFILE
from typing import Literal

from mountd.core.words.faults import Limit, raising

Kind = Literal["files", "all files", "mounts", "user namespaces", "threads", "watches"]
_SYSCTLS: dict[Kind, str] = {
    "all files": "fs.file-max",
    "mounts": "fs.mount-max",
    "user namespaces": "user.max_user_namespaces",
}


class NoThreadError(OSError):
    """No thread, or process, can be started: EAGAIN."""

    def __init__(self) -> None:
        super().__init__(EAGAIN, f"no thread can be started: {os.strerror(EAGAIN)}")


def hint_of(error: OSError) -> str | None:
    """What to raise, where an error is a limit's that its errno tells; else None.

    ENOSPC is none of these: it is the caller who knows what there was no room for.
    """
    if isinstance(error, NoThreadError):
        return hint_on("threads")
    if error.errno in (EMFILE, ENFILE):
        return hint_on("files" if error.errno == EMFILE else "all files")
    return None


def hint_on(kind: Kind) -> str:
    """What to raise where one of these has run out, with the number that is in force here."""
    return raising(*limits_on(kind))


def limits_on(kind: Kind) -> list[Limit]:
    """The limit that was reached; where that can't be told, all that it may have been."""
    if kind == "files":  # without a descriptor, for there is none
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        knob = "the limit on open files (`ulimit -n`, LimitNOFILE=)"
        return [Limit(knob, soft)]
    if kind == "threads":
        found = [*_on_threads()]
        return [limit for limit, is_reached in found if is_reached] or [each for each, _ in found]
    if kind == "watches":
        return [*_on_watches(), *limits_on("files")]
    return [_sysctl(_SYSCTLS[kind])]


def _on_threads() -> Iterator[tuple[Limit, bool]]:
    """All that limit threads and processes, and whether each is reached (clone(2), EAGAIN)."""
    for folder in _cgroups():
        limit, now = (_number(f"{folder}/pids.{each}") for each in ("max", "current"))
        if limit is not None:
            knob = f"{folder}/pids.max (TasksMax=)"
            yield Limit(knob, limit), now is not None and now >= limit
    threads = _sysctl("kernel.threads-max")
    yield threads, threads.value is not None and (_threads() or 0) >= threads.value
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.getuid() != 0:  # the first user is let off
        yield Limit("the limit on processes (`ulimit -u`, LimitNPROC=)", soft), False


def _on_watches() -> Iterator[Limit]:
    """What limits inotify(7): the kernel, or our user namespace where that is lower."""
    for kind in ("instances", "watches"):
        names = (f"fs.inotify.max_user_{kind}", f"user.max_inotify_{kind}")
        found = [each for each in map(_sysctl, names) if each.value is not None]
        yield min(found, key=lambda each: each.value or 0, default=_sysctl(names[0]))


def _cgroups() -> Iterator[str]:
    """The folders of the cgroups that count our processes, from our own up (cgroups(7))."""
    with suppress(OSError), open("/proc/self/cgroup", errors="surrogateescape") as lines:
        for line in lines:
            _, controllers, folder = line.rstrip("\n").split(":", 2)
            if controllers in ("", "pids"):  # cgroup2, and version 1
                place = "/".join(filter(None, ("/sys/fs/cgroup", controllers)))
                while folder.strip("/"):
                    yield f"{place}{folder}"
                    folder = folder[: folder.rfind("/")]


def _threads() -> int | None:
    """How many there are on this machine: `0.00 0.00 0.00 RUNNING/ALL LAST` (proc_loadavg(5))."""
    with suppress(OSError, ValueError, IndexError), open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])
    return None


def _sysctl(name: str) -> Limit:
    return Limit(f"the sysctl {name}", _number(f"/proc/sys/{name.replace('.', '/')}"))


def _number(path: str) -> int | None:
    """A file's number; None for `max`, and where it can't be read."""
    with suppress(OSError, ValueError), open(path) as file:
        return int(file.read())
    return None
