"""What is managed: `record.json` in the state directory.

An id enters the record before its mount is attached and leaves after the mount is gone, so a kill
at any moment leaves no mount of ours unknown.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ENOENT, ENOTDIR
from functools import lru_cache
from typing import Any

from mountd.core.faults import PASSING
from mountd.core.idmapping import Extents, Idmapping, kernel_text, parsed_text
from mountd.core.model import (
    FIRST_UNIQUE_ID,
    Base,
    Fault,
    Ids,
    Managed,
    ObservedMount,
    Refused,
    is_same,
)
from mountd.kernel.paths import UnsafeLinkError, open_path, spot, why_no_proof
from mountd.kernel.syscalls import Fd
from mountd.lock import StateError, locked

_FORMAT = 1
_MOST_BYTES = 64 << 20
_ROOT = 0
_ODD_JSON = (AttributeError, ArithmeticError, RecursionError)  # of other types than we wrote
_encode = json.JSONEncoder().encode


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
        self.is_lost = True
        """Whether there is none of this boot and namespace: then mounts of ours may be unknown."""
        self._is_of_another_namespace = False
        self.has_file = False
        """Whether there is one, or was and is lost."""
        self.resumed: str | None = None
        """A sentence where it was lost, and is made anew of what was known."""
        self._folder = folder
        self._path = path
        self._lines: dict[int, bytes] = {}  # entries as JSON: most stay as they are at each write
        self._is_changed = False
        self._stamp: _Stamp | None = None
        self.place = folder and _place(folder)
        if folder:
            self._load(folder)

    def _load(self, folder: Fd) -> None:
        try:
            text, self._stamp = _read(folder)
            self.has_file = True
            document = json.loads(text)
            if document["version"] != _FORMAT:
                raise ValueError(f"version {document['version']}")
            boot, namespace = _here()
            if document["boot"] == boot and document["namespace"] != namespace:
                self._is_of_another_namespace = bool(document["mounts"])
            elif document["boot"] == boot:
                for each in document["mounts"]:
                    managed = _from_json(each)
                    self.managed[managed.id] = managed
                self.bases = {
                    str(name): Base(int(id_), str(name))
                    for name, id_ in document["filesystems"].items()
                }
                self.is_lost = bool(document["partial"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError, *_ODD_JSON) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise  # what can't be opened just now is not damaged
            self.managed.clear()
            self.bases.clear()
            self.damage = getattr(error, "strerror", None) or str(error) or type(error).__name__

    def is_of(self, folder: Fd) -> bool:
        """Whether the file there is still the one that this was read from, or written to."""
        if self._is_changed or self._stamp is None or self.damage:
            return False
        try:
            found = os.stat("record.json", dir_fd=folder.number, follow_symlinks=False)
        except OSError:
            return False
        return _stamp(found) == self._stamp

    def move_to(self, folder: Fd) -> None:
        """Go on with a folder opened anew."""
        self._folder = folder
        self.place = _place(folder)
        self.has_waited = False
        self.resumed = None

    def resume(self, last: "Record") -> None:
        """Know what `last` did, whose file went, or can't be believed, or is in another folder.

        What another process wrote in that one's place is newer, and holds as it is.
        """
        if not last.has_file:
            return  # nothing can have been lost
        is_same = self.has_file and self.place == last.place
        if is_same and not (self.damage or self._is_of_another_namespace):
            return
        why = f"can't be read ({self.damage})" if self.damage else "was removed or replaced"
        self.resumed = f"{self._path}/record.json {why}; it is made anew of what is known here"
        for mount, managed in last.managed.items():
            self.managed.setdefault(mount, managed)
        self.bases = {**last.bases, **self.bases}
        self.is_lost &= last.is_lost
        self.has_file = True
        self._is_changed = True
        with suppress(OSError):  # whoever has something to enter says so
            self.write()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence where the file is there and can't be believed, or read."""
        file = f"{self._path}/record.json"
        if self.resumed:  # which is told by itself
            return ()
        if self._is_of_another_namespace:
            return (f"{file} is of another mount namespace, and void here",)
        if self.damage:
            said = f"{file} can't be read ({self.damage})"
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
        """Know mounts by their place where ids are of another kind now: a seccomp filter has gone.

        Without statmount(2) ids are mountinfo's; those of both kinds never meet.
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
                stamp = _stamp(os.fstat(file.number))
            if self.damage:
                self._keep_aside(folder, "record.json")
                self.damage = None
            _rename(folder, "record.json.new", "record.json")
        except OSError as error:
            with suppress(OSError):
                os.unlink("record.json.new", dir_fd=folder)
            said = f"write: {os.strerror(error.errno or 0)} ({self._path}/record.json)"
            raise OSError(error.errno, said) from error
        self._is_changed = False
        self.has_file = True
        self._stamp = stamp

    def _new_file(self, folder: int) -> Fd:
        """One of our own, whatever was left under that name: a FIFO would hang us."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileExistsError):
            return Fd(os.open("record.json.new", flags, 0o644, dir_fd=folder))
        try:
            os.unlink("record.json.new", dir_fd=folder)
        except IsADirectoryError:
            self._keep_aside(folder, "record.json.new")
        return Fd(os.open("record.json.new", flags, 0o644, dir_fd=folder))

    def _keep_aside(self, folder: int, name: str) -> None:
        """Leave what can't be believed to whoever wants to know why."""
        taken = os.listdir(f"/proc/self/fd/{folder}")
        names = (f"{name}.damaged", *(f"{name}.damaged.{n}" for n in range(2, 100)))
        free = next((each for each in names if each not in taken), names[-1])
        with suppress(FileNotFoundError):
            _rename(folder, name, free)

    def _text(self) -> bytes:
        for mount in self.managed.keys() - self._lines.keys():
            self._lines[mount] = _to_json(self.managed[mount]).encode()
        boot, namespace = _here()
        bases = {base.name: base.id for base in self.bases.values()}
        head = json.dumps(
            {
                "version": _FORMAT,
                "boot": boot,
                "namespace": namespace,
                "partial": self.is_lost,
                "filesystems": bases,
            }
        )
        mounts = b",\n".join([self._lines[each] for each in self.managed])
        return b'%s, "mounts": [\n%s\n]}\n' % (head[:-1].encode(), mounts)


def read_record(state_dir: str) -> Record:
    """The record as it is, for a look that changes nothing and takes no lock."""
    try:
        folder, _ = open_path(state_dir)
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


def state_folder(path: str) -> Fd:
    """The state directory, made where it is missing. Raises StateError; OSError as in `PASSING`."""
    try:
        with spot(path) as found:
            if not found.there and len(found.names) == 1:
                with suppress(FileExistsError):
                    os.mkdir(found.name, 0o755, dir_fd=found.folder.number)
            folder, _ = open_path(path)
    except UnsafeLinkError as error:
        said = f"{error.filename} is a link that {error.strerror}"
        raise StateError(f"the state directory can't be used: {said}") from error
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise StateError(f"the state directory can't be used: {error.strerror}") from error
    if why := why_no_proof(folder):
        folder.close()
        raise StateError(f"the state directory can't be used: {path} {why}")
    found_mode = os.fstat(folder.number)
    if not stat.S_ISDIR(found_mode.st_mode) or _others_may_write(found_mode):
        folder.close()
        raise StateError(f"the state directory {path} must be a folder that only root can write")
    return folder


_Stamp = tuple[int, int, int, int]


def _place(folder: Fd) -> tuple[int, int]:
    found = os.fstat(folder.number)
    return found.st_dev, found.st_ino


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(folder: Fd) -> tuple[str, _Stamp]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with Fd(os.open("record.json", flags, dir_fd=folder.number)) as file:
        found = os.fstat(file.number)
        if not stat.S_ISREG(found.st_mode) or _others_may_write(found):
            raise ValueError("it is not a file that only root can write")
        if found.st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        with open(file.number, "rb", closefd=False) as stream:
            return stream.read(_MOST_BYTES).decode(), _stamp(found)


def _others_may_write(found: os.stat_result) -> bool:
    return found.st_uid != _ROOT or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _rename(folder: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def _here() -> tuple[str, str]:
    """The boot and the mount namespace, in which alone the record's ids mean anything."""
    with open("/proc/sys/kernel/random/boot_id") as boot:
        return boot.read().strip(), os.readlink("/proc/self/ns/mnt")


def _to_json(managed: Managed) -> str:
    fields: dict[str, Any] = dict(zip(managed._fields, managed, strict=True))
    idmap = fields.pop("idmap")
    if refused := managed.refused:
        fields["refused"] = {
            "idmap": refused.idmap and [kernel_text(each).decode() for each in refused.idmap],
            **refused.fault._asdict(),
        }
    head = _encode(fields)
    return f'{head[:-1]}, "idmap": {_idmap_to_json(idmap)}}}'


@lru_cache(1024)  # volumes of one owner and one user have the same
def _idmap_to_json(idmap: Idmapping | None) -> str:
    return _encode(idmap and [kernel_text(extents).decode() for extents in idmap])


def _from_json(each: dict[str, Any]) -> Managed:
    return Managed(
        int(each["id"]),
        str(each["volume"]),
        str(each["source"]),
        str(each["target"]),
        str(each["manifest"]),
        Ids(*map(int, each["owner"])),
        _idmap(each["idmap"]),
        str(each["filesystem"]),
        tuple(map(int, each["submounts"])),
        each["refused"] and _refused(dict(each["refused"])),
        device=int(each["device"]),
        root=str(each["root"]),
    )


def _idmap(texts: Any) -> Idmapping | None:
    return Idmapping(*(_extents(text) for text in texts)) if texts else None


def _refused(fields: dict[str, Any]) -> Refused:
    return Refused(_idmap(fields.pop("idmap")), Fault(**fields))


def _extents(text: str) -> Extents:
    return parsed_text(tuple(text.encode().splitlines()))
