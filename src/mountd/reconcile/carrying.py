"""Mounts of ours that come along when what they lie on is replaced, covered or taken off.

A mount can't be moved from one to another without a gap, but a clone of it can be attached first.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from mountd.core.model import Fault
from mountd.core.mounts import Managed
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel import attach as tree
from mountd.kernel.attach import Carried
from mountd.kernel.limits import hint_of
from mountd.kernel.observe import is_mounted
from mountd.kernel.paths import spot
from mountd.reconcile.record import Record


class Carrier:
    """Clones mounts of ours, and keeps the record of what became of them, for one pass."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._renewed: dict[int, int] = {}
        """The present ids of mounts that came along with another's change."""

    def take_along(self, mounts: Sequence[tuple[str, Managed]], held: ExitStack) -> list[Carried]:
        """Clones of our mounts, given with where they are, on record before they are attached."""
        if not mounts:
            return []
        carried = [self._clone(point, managed, held) for point, managed in mounts]
        if fault := write_record(self._record):
            raise VolumeError(fault)
        return carried

    def spare(self, target: str, old: Managed, held: ExitStack) -> Carried:
        """A clone of our own mount, on record, to put back if the new one can't be had."""
        spare = self._clone(target, old, held)
        if fault := write_record(self._record):
            raise VolumeError(fault)
        return spare

    def _clone(self, point: str, managed: Managed, held: ExitStack) -> Carried:
        present = managed.id
        while present in self._renewed:
            present = self._renewed[present]
        with spot(point) as found:
            clone = tree.clone_of(found, present)
        held.enter_context(clone.tree.fd)
        for each in [*self._record.managed.values()]:
            if each.id in clone.ids:
                submounts = tuple(clone.ids.get(one, one) for one in each.submounts)
                self._record.add(each._replace(id=clone.ids[each.id], submounts=submounts))
        return clone

    def see_no_strangers(self, old: Managed) -> None:
        """Raise VolumeError where a mount that isn't ours lies on this one."""
        managed = self._record.managed
        submounts = {each: one for one in managed.values() for each in one.submounts}
        tree.see_no_strangers(old.id, submounts | managed)

    def settle(self, carried: Sequence[Carried]) -> None:
        """Remember clones that replaced originals, and drop what is gone from the record."""
        for each in carried:
            self._renewed |= {old: new for old, new in each.ids.items() if is_mounted(new)}
        self.forget_unless_mounted(*ids_of(carried))

    def forget_unless_mounted(self, *mounts: int) -> None:
        """Take those that are gone off the record."""
        self._record.remove(*(each for each in mounts if not is_mounted(each)))


def ids_of(carried: Sequence[Carried]) -> list[int]:
    """Those of the mounts that were cloned, and of the clones."""
    return [each for one in carried for pair in one.ids.items() for each in pair]


def write_record(record: Record, *, always: bool = False) -> Fault | None:
    """Write the record, or tell why it can't be."""
    try:
        record.write(always=always)
    except OSError as error:
        return faults.unwritable_record(error, hint_of(error))
    return None
