"""The record's file as it is read: what can be believed of it, and whose it is."""

import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mountd.core.mounts import Adoptable, Base, Managed
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.faults import PASSING
from mountd.exits import StateError
from mountd.kernel.mount_namespace import MountNamespace, may_exist, our_namespace
from mountd.kernel.syscalls import Fd
from mountd.reconcile.entries import (
    as_dict,
    as_list,
    as_number,
    as_path,
    as_text,
    bases_from,
    managed_from,
)
from mountd.reconcile.state import others_may_write

FORMAT = 1
MOST_BYTES = 64 << 20
MOST_OTHERS = 32
MAIN = "record.json"
"""The file of the namespace that came first; each other one has its number in its file's name."""
OTHERS = r"(?a)record-(\d{1,20})\.json(\..+)?"
ANY_OTHER = ""
"""Stands for each manifest that has no pass of its own since the record was lost."""
_ODD_JSON = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError)


class Place(NamedTuple):
    """The boot and the mount namespace, in which alone a record's ids mean anything."""

    boot: str
    namespace: MountNamespace

    @property
    def own_file(self) -> str:
        """What its record is called if another namespace has the main one."""
        return f"record-{self.namespace.number}.json"

    def is_same(self, other: "Place") -> bool:
        """Whether both are one boot and one mount namespace, as far as can be told."""
        return self.boot == other.boot and self.namespace.is_same(other.namespace)


class RecordFile(NamedTuple):
    """A record as it was found; `place` None: there is none, or `damage` says what it has."""

    stamp: "Stamp | None" = None
    place: Place | None = None
    managed: Mapping[int, Managed] = {}
    bases: Mapping[str, Base] = {}
    unsettled: Mapping[str, Adoptable] = {}
    damage: str | None = None


Stamp = tuple[int, int, int, int]


def folder_of(folder: Fd) -> tuple[int, int]:
    """Which folder a descriptor is on."""
    found = os.fstat(folder.number)
    return found.st_dev, found.st_ino


def stamp_of(found: os.stat_result) -> Stamp:
    """What tells whether a file was written again."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def record_in(folder: Fd, name: str) -> RecordFile:
    """What there is under a name. A file that isn't ours through and through is damaged."""
    stamp = None
    try:
        text, stamp = _read(folder, name)
        document = as_dict(json.loads(text, parse_float=_refuse, parse_constant=_refuse))
        if document["version"] != FORMAT:
            raise ValueError(f"version {str(document['version'])[:20]}")
        number = document["namespace_id"]
        namespace = MountNamespace(
            as_text(document["namespace"]),
            None if number is None else as_number(number, 0, (1 << 64) - 1),
        )
        return RecordFile(
            stamp,
            Place(as_text(document["boot"]), namespace),
            managed_from(document["mounts"]),
            bases_from(document["filesystems"]),
            _unsettled_from(document["unsettled"]),
        )
    except FileNotFoundError:
        return RecordFile()
    except (OSError, *_ODD_JSON) as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise  # what can't be opened just now is not damaged
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, KeyError):
            said = f"it has no {said}"
        return RecordFile(stamp, damage=said)


def _refuse(text: str) -> None:
    raise ValueError(f"it has the number {text[:20]}")


def _unsettled_from(values: Any) -> dict[str, Adoptable]:
    return {
        as_text(manifest): None if targets is None else frozenset(map(as_path, as_list(targets)))
        for manifest, targets in as_dict(values).items()
    }


def sweep(folder: Fd, ours: str) -> None:
    """Remove the records of namespaces that are gone; and the oldest, if there are too many."""
    with suppress(OSError):
        others = []
        for name in os.listdir(f"/proc/self/fd/{folder.number}"):
            match = re.fullmatch(OTHERS, name)
            if match and not name.startswith(ours):
                if may_exist(f"mnt:[{match[1]}]"):
                    found = os.stat(name, dir_fd=folder.number, follow_symlinks=False)
                    others.append((found.st_mtime_ns, name))
                else:
                    os.unlink(name, dir_fd=folder.number)
        for _, name in sorted(others)[:-MOST_OTHERS]:
            os.unlink(name, dir_fd=folder.number)


def _read(folder: Fd, name: str) -> "tuple[str, Stamp]":
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with Fd(os.open(name, flags, dir_fd=folder.number)) as file:
        found = os.fstat(file.number)
        if not stat.S_ISREG(found.st_mode) or others_may_write(found):
            raise ValueError("it is not a file that only root can write")
        if found.st_size > MOST_BYTES:
            raise ValueError("it is too large")
        with open(file.number, "rb", found.st_size + 2, closefd=False) as stream:  # in one call
            return stream.read(found.st_size).decode(), stamp_of(found)


def rename_in(folder: int, old: str, new: str) -> None:
    """Rename a file within its folder."""
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def here() -> Place:
    """Where we are: the boot, and our mount namespace."""
    try:
        with open(_BOOT) as boot:
            return Place(boot.read().strip(), our_namespace())
    except FileNotFoundError as error:
        message = f"the record can't be believed, for there is no {error.filename}"
        raise StateError(message, _WHOLE_PROC) from error


_BOOT = "/proc/sys/kernel/random/boot_id"
_WHOLE_PROC = "mount /proc without `subset=pid`, or have the unit say ProcSubset=all"
