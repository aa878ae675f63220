"""Which folders a user may go through, asked of the kernel as that user, without a fork.

This thread alone is changed, and meanwhile has none of the capabilities that let root pass
(setfsuid(2)).
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EPERM
from typing import NamedTuple

from mountd.kernel.paths import ROOT
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.syscalls import faccessat2, setgroups

_libc = ctypes.CDLL(None)
_UNCHANGED = -1  # no id at all: setfsuid answers with the one in force


class Person(NamedTuple):
    """The ids by which a process is let through, or isn't."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def can_act_as_others() -> bool:
    """Whether this process may ask as another user."""
    return os.geteuid() == ROOT and not missing_capabilities(["CAP_SETUID", "CAP_SETGID"])


def first_closed(folders: Sequence[str], person: Person) -> str | None:
    """The first of these folders, each in the one before it, through which the person can't go.

    What isn't there is closed to nobody. Raises OSError where it can't be asked.
    """
    with _acting_as(person):
        for folder in folders:
            try:
                faccessat2(folder, os.X_OK)
            except PermissionError as error:
                if error.errno == EPERM:  # a seccomp filter's word
                    raise
                return folder
            except (FileNotFoundError, NotADirectoryError):
                return None
    return None


@contextmanager
def _acting_as(person: Person) -> Iterator[None]:
    before = os.getgroups()
    setgroups(person.groups)
    try:
        _libc.setfsgid(person.gid)
        _libc.setfsuid(person.uid)
        in_force = (_libc.setfsuid(_UNCHANGED), _libc.setfsgid(_UNCHANGED))
        if tuple(each & 0xFFFFFFFF for each in in_force) != person[:2]:
            raise PermissionError(EPERM, f"setfsuid: {os.strerror(EPERM)}")
        yield
    finally:
        _libc.setfsuid(ROOT)
        _libc.setfsgid(ROOT)
        setgroups(before)
