"""The mount table, followed from one moment to the next: what came, went and was altered.

poll(2) on it answers POLLPRI after a change (proc(5)), and POLLIN always. What is asked then is as
little as tells: a table of 1,000 mounts takes 8 ms to read whole.
"""

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from mountd.core.mountinfo import parse_mountinfo
from mountd.core.mounts import Observed, ObservedMount
from mountd.core.named_tuple import NamedTuple
from mountd.kernel import served
from mountd.kernel.observe import mountinfo, observe, observe_mount
from mountd.kernel.statmount import HAS_STATMOUNT, fingerprints, listmount
from mountd.kernel.syscalls import Fd

_AT_ONCE = 250
"""Mounts that are compared before it is told which of them were altered."""


class Change(NamedTuple):
    """A mount before and after; None where it was not there, or no longer is."""

    before: ObservedMount | None
    now: ObservedMount | None


class TableNews:
    """Whether anything was mounted or unmounted since that was asked last."""

    def __init__(self) -> None:
        self._file = Fd(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
        self._poll = select.poll()
        self._poll.register(self._file.number, select.POLLPRI)

    def are_there(self) -> bool:
        """Ask; to ask is to have heard."""
        return bool(self._poll.poll(0))


class MountTable:
    """The mounts of our namespace as they were when last looked at, by one thread."""

    def __init__(self) -> None:
        self._file = Fd(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
        self._observed = Observed({}, {}, tells_idmaps=False)
        self._prints: dict[int, int] = {}
        self._untold: list[Change] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        """What can be polled for POLLPRI."""
        return self._file.number

    @property
    def mounts(self) -> dict[int, ObservedMount]:
        """The mounts by id, as they were."""
        return self._observed.mounts

    def read(self) -> Observed:
        """All of it, anew."""
        self._untold.clear()
        if HAS_STATMOUNT:  # before the mounts, so that what is altered meanwhile is found later
            self._prints = dict(fingerprints(listmount()))
        else:
            self._prints = {number: hash(line) for number, line in _lines().items()}
        self._observed = observe()
        return self.as_seen()

    def follow(self) -> Observed:
        """With what came and went since; an alteration isn't looked for, for that takes longer."""
        self._untold += self._came_and_went() if HAS_STATMOUNT else self._differing_lines()
        return self.as_seen()

    def as_seen(self) -> Observed:
        """As it was when last looked at."""
        return self._observed._replace(mounts={**self.mounts})

    def changes(self) -> Iterator[list[Change]]:
        """What changed since it was read and hasn't been told: came and went first, then altered.

        In portions, so that something can be done about one before all were looked at. The first
        may be empty, for a mount can come and go between two looks.
        """
        self.follow()
        told, self._untold = self._untold, []
        yield told
        ids = [*self.mounts] if HAS_STATMOUNT else []
        for start in range(0, len(ids), _AT_ONCE):
            if altered := [*self._altered(ids[start : start + _AT_ONCE])]:
                yield altered

    def _came_and_went(self) -> Iterator[Change]:
        ids = {*listmount()}
        for gone in self.mounts.keys() - ids:
            self._prints.pop(gone, None)
            yield Change(self.mounts.pop(gone), None)
        for number, print_ in fingerprints(ids - self.mounts.keys()):
            with suppress(FileNotFoundError):
                self.mounts[number] = mount = observe_mount(number)
                served.learn_one(mount)
                self._prints[number] = print_
                yield Change(None, mount)

    def _altered(self, ids: list[int]) -> Iterator[Change]:
        for number, print_ in fingerprints(ids):
            if print_ != self._prints.get(number) and number in self.mounts:
                with suppress(FileNotFoundError):
                    before, mount = self.mounts[number], observe_mount(number)
                    self.mounts[number], self._prints[number] = mount, print_
                    yield Change(before, mount)

    def _differing_lines(self) -> Iterator[Change]:
        lines = _lines()
        for gone in [each for each in self.mounts if each not in lines]:
            self._prints.pop(gone, None)
            yield Change(self.mounts.pop(gone), None)
        differing = {
            number: line for number, line in lines.items() if self._prints.get(number) != hash(line)
        }
        for number, (mount, _) in zip(
            differing, parse_mountinfo("\n".join(differing.values())), strict=True
        ):
            yield Change(self.mounts.get(number), mount)
            served.learn_one(mount)
            self.mounts[number], self._prints[number] = mount, hash(lines[number])


def _lines() -> dict[int, str]:
    return {int(line.partition(" ")[0]): line for line in mountinfo().split("\n") if line}
