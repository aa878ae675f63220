"""What is managed: `record.json` in the state directory, one file for each mount namespace.

An id enters the record before its mount is attached and leaves after the mount is gone, so a kill
at any moment leaves no mount of ours unknown.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ENOENT, ENOTDIR

from mountd.core.mounts import FIRST_UNIQUE_ID, Adoptable, Base, Managed, ObservedMount, is_same
from mountd.kernel.files import see_folder
from mountd.kernel.mount_namespace import may_exist
from mountd.kernel.paths import open_path
from mountd.kernel.served import ServedError
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import why_no_proof
from mountd.reconcile.entries import (
    to_json,
)
from mountd.reconcile.record_file import (
    ANY_OTHER,
    FORMAT,
    MAIN,
    Place,
    RecordFile,
    Stamp,
    folder_of,
    here,
    record_in,
    rename_in,
    stamp_of,
    sweep,
)
from mountd.reconcile.state import locked, on_server, state_folder


class Record:
    """The managed mounts of this boot and mount namespace, by id, as they are in the file."""

    def __init__(self, folder: Fd | None, path: str, *, has_waited: bool = False) -> None:
        """`has_waited`: another pass held the lock when this one came."""
        self.has_waited = has_waited
        self.managed: dict[int, Managed] = {}
        self.bases: dict[str, Base] = {}
        """The raw mounts of filesystems, by name."""
        self.damage: str | None = None
        """Why the file can't be believed. Mounts of ours are then known by what they are."""
        self.has_file = False
        """Whether there is one, or was and is lost."""
        self.resumed: str | None = None
        """A sentence where it was lost, and is made anew of what was known."""
        self._is_void = False
        """Whether the file is of another boot, or of a mount namespace that is gone."""
        self._is_new = True
        """Whether nothing says that there has been a record before."""
        self.unsettled: dict[str, Adoptable] = {ANY_OTHER: None}
        self._folder = folder
        self.state_dir = path
        self._name = MAIN
        self._lines: dict[int, bytes] = {}  # entries as JSON: most stay as they are at each write
        self._is_changed = False
        self._is_swept = False
        self._stamp: Stamp | None = None
        self.place = folder and folder_of(folder)
        self._here = here()
        if folder:
            self._load(folder, self._here)

    def _load(self, folder: Fd, here: Place) -> None:
        found = record_in(folder, MAIN)
        if not (found.place and found.place.is_same(here)):
            own = record_in(folder, here.own_file)
            is_taken = found.place and found.place.boot == here.boot
            if own.stamp or own.damage:
                self._name, found = here.own_file, own
            elif found.place and is_taken and may_exist(found.place.namespace.name):
                self._name, found = here.own_file, RecordFile()
        self._stamp, self.damage = found.stamp, found.damage
        self.has_file = found.stamp is not None
        is_ours = found.place is not None and found.place.is_same(here)
        if is_ours:
            self.managed, self.bases = {**found.managed}, {**found.bases}
            self.unsettled = {**found.unsettled}
        self._is_void = found.place is not None and not is_ours
        self._is_new = self._name == MAIN and not self.damage and not is_ours

    def adoptable(self, manifest: str) -> Adoptable:
        """Where mounts may be a manifest's though the record, which was lost, doesn't name them."""
        nowhere: Adoptable = frozenset()
        return self.unsettled.get(manifest, self.unsettled.get(ANY_OTHER, nowhere))

    def settle(
        self, manifest: str, but: Iterable[str], *, has_adopted: bool, is_over: bool
    ) -> None:
        """Have a manifest's mounts on record, `but` at these targets; `write` makes it last.

        Where some were found that it hadn't, others of other manifests may be there; where none
        were until the pass is over, this is the first record of all. A namespace that isn't the
        first may be a slave of that one, and get copies of its mounts at any time.
        """
        if not self.unsettled or self._name != MAIN:
            return
        before = {**self.unsettled}
        self.unsettled[manifest] = frozenset(but)
        self._is_new &= not has_adopted
        if self._is_new and is_over:
            self.unsettled.pop(ANY_OTHER, None)
        if ANY_OTHER not in self.unsettled and not any(self.unsettled.values()):
            self.unsettled.clear()
        if self.unsettled != before and (self._stamp or self.managed):
            self._is_changed = True

    def is_of(self, folder: Fd) -> bool:
        """Whether the file there is still the one that this was read from, or written to."""
        if self._is_changed or self._stamp is None or self.damage:
            return False
        try:
            found = os.stat(self._name, dir_fd=folder.number, follow_symlinks=False)
        except OSError:
            return False
        return stamp_of(found) == self._stamp

    def move_to(self, folder: Fd) -> None:
        """Go on with a folder opened anew."""
        self._folder = folder
        self.place = folder_of(folder)
        self.has_waited = False
        self.resumed = None

    def resume(self, last: "Record") -> None:
        """Know what `last` did, whose file went, or can't be believed, or is in another folder.

        What another process wrote in that one's place is newer, and holds as it is.
        """
        if not last.has_file:
            return  # nothing can have been lost
        is_same = self.has_file and self.place == last.place
        if is_same and not (self.damage or self._is_void):
            return
        why = f"can't be read ({self.damage})" if self.damage else "was removed or replaced"
        self.resumed = f"{self.state_dir}/{self._name} {why}; it is made anew of what is known here"
        for mount, managed in last.managed.items():
            self.managed.setdefault(mount, managed)
        self.bases = {**last.bases, **self.bases}
        self.unsettled, self._is_new = {**last.unsettled}, False
        self.has_file = True
        self._is_changed = True
        with suppress(OSError):  # whoever has something to enter says so
            self.write()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence where the file is there and can't be believed, or read."""
        if self.resumed:  # which is told by itself
            return ()
        if self.damage:
            said = f"{self.state_dir}/{self._name} can't be read ({self.damage})"
            return (f"{said}: mounts of ours are known only where they are as desired",)
        return ()

    def add(self, *entries: Managed) -> None:
        """Enter mounts; `write` makes it last."""
        for entry in entries:
            if self.managed.get(entry.id) != entry:
                self.managed[entry.id] = entry
                self._lines.pop(entry.id, None)
                self._is_changed = True

    def remove(self, *ids: int) -> None:
        """Forget mounts that are gone; `write` makes it last."""
        for each in ids:
            if self.managed.pop(each, None):
                self._lines.pop(each, None)
                self._is_changed = True

    def add_base(self, base: Base) -> None:
        """Enter the raw mount of a filesystem; `write` makes it last."""
        if self.bases.get(base.name) != base:
            self.bases[base.name] = base
            self._is_changed = True

    def remove_base(self, name: str) -> None:
        """Forget one that is gone; `write` makes it last."""
        if self.bases.pop(name, None):
            self._is_changed = True

    def follow(self, mounts: Mapping[int, ObservedMount]) -> None:
        """Re-key entries by place if the kind of mount id changed between two runs.

        It does where a seccomp filter that blocked statmount(2) has come or gone; ids of one kind
        never equal those of the other.
        """
        kinds = {each >= FIRST_UNIQUE_ID for each in mounts}
        others = [
            each for each in self.managed.values() if (each.id >= FIRST_UNIQUE_ID) not in kinds
        ]
        if not others:
            return
        places: dict[tuple[int, str, str], list[int]] = {}
        for mount in mounts.values():
            places.setdefault((mount.device, mount.root, mount.point), []).append(mount.id)
        for managed in others:
            found = places.get((managed.device, managed.root, managed.target), [])
            if len(found) == 1:
                self.remove(managed.id)
                self.add(managed._replace(id=found[0]))

    def forget_gone(self, mounts: Mapping[int, ObservedMount]) -> None:
        """Forget every mount that isn't among those that the kernel has; `write` makes it last."""
        gone = self.managed.keys() - mounts.keys()
        reused = [
            each
            for each in self.managed
            if each < FIRST_UNIQUE_ID and each not in gone
            if not is_same(self.managed[each], mounts[each])
        ]
        self.remove(*gone, *reused)

    def write(self, *, always: bool = False) -> None:
        """Write the file whole, if anything differs: a temporary one, synced, renamed.

        Raises OSError, and then the old file is as it was.
        """
        if not (self._is_changed or always):
            return
        assert self._folder, "a dry run writes nothing"
        folder = self._folder.number
        try:
            with self._new_file(folder) as file:
                rest = memoryview(self._text())
                while rest:
                    rest = rest[os.write(file.number, rest) :]
                os.fsync(file.number)
                stamp = stamp_of(os.fstat(file.number))
            if self.damage:
                self._keep_aside(folder, self._name)
                self.damage = None
            rename_in(folder, f"{self._name}.new", self._name)
        except OSError as error:
            with suppress(OSError):
                os.unlink(f"{self._name}.new", dir_fd=folder)
            said = f"write: {os.strerror(error.errno or 0)} ({self.state_dir}/{self._name})"
            raise OSError(error.errno, said) from error
        self._is_changed = False
        self.has_file = True
        self._stamp = stamp
        if not self._is_swept:
            self._is_swept = True
            sweep(self._folder, self._name)

    def _new_file(self, folder: int) -> Fd:
        """One of our own, whatever was left under that name: a FIFO would hang us."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileExistsError):
            return Fd(os.open(f"{self._name}.new", flags, 0o644, dir_fd=folder))
        try:
            os.unlink(f"{self._name}.new", dir_fd=folder)
        except IsADirectoryError:
            self._keep_aside(folder, f"{self._name}.new")
        return Fd(os.open(f"{self._name}.new", flags, 0o644, dir_fd=folder))

    def _keep_aside(self, folder: int, name: str) -> None:
        """Keep a damaged record under another name."""
        taken = os.listdir(f"/proc/self/fd/{folder}")
        names = (f"{name}.damaged", *(f"{name}.damaged.{n}" for n in range(2, 100)))
        free = next((each for each in names if each not in taken), names[-1])
        with suppress(FileNotFoundError):
            rename_in(folder, name, free)

    def _text(self) -> bytes:
        for mount in self.managed.keys() - self._lines.keys():
            self._lines[mount] = to_json(self.managed[mount]).encode()
        boot, namespace = self._here
        head = json.dumps(
            {
                "version": FORMAT,
                "boot": boot,
                "namespace": namespace.name,
                "namespace_id": namespace.id,
                "unsettled": {
                    manifest: targets if targets is None else sorted(targets)
                    for manifest, targets in self.unsettled.items()
                },
                "filesystems": {
                    base.name: {
                        "id": base.id,
                        "type": base.type,
                        "source": base.source,
                        "ignored": base.ignored,
                    }
                    for base in self.bases.values()
                },
            }
        )
        mounts = b",\n".join([self._lines[each] for each in self.managed])
        return b'%s, "mounts": [\n%s\n]}\n' % (head[:-1].encode(), mounts)


def read_record(state_dir: str) -> Record:
    """The record as it is, for a look that changes nothing and takes no lock."""
    try:
        folder, _ = open_path(state_dir)
        see_folder(folder)
    except ServedError as error:
        raise on_server(state_dir) from error
    except OSError as error:
        nothing = Record(None, state_dir)
        nothing.damage = None if error.errno in (ENOENT, ENOTDIR) else error.strerror
        return nothing
    with folder:
        if why := why_no_proof(folder):
            nothing = Record(None, state_dir)
            nothing.damage = f"{state_dir} {why}"
            return nothing
        return Record(folder, state_dir)


@contextmanager
def locked_record(
    state_dir: str,
    wait: float,
    last: Record | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Iterator[Record]:
    """The record, held by this process alone until the end of the `with`.

    It is the `last` one, if no other process has written it since; if its file was lost, it knows
    what that one knew. `on_wait` is told, once, who is waited for. Raises LockedError after `wait`
    seconds, StateError where the directory can't be used, and OSError as in `PASSING`.
    """
    with state_folder(state_dir) as folder, locked(folder, state_dir, wait, on_wait) as has_waited:
        if last and last.is_of(folder):
            last.move_to(folder)
            yield last
        else:
            record = Record(folder, state_dir, has_waited=has_waited)
            if last:
                record.resume(last)
            yield record
