"""What a user may, asked of the kernel as that user, without a fork.

This thread alone is changed, and meanwhile has none of the capabilities that let root pass
(setfsuid(2)).
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import ENOSYS, EPERM
from struct import iter_unpack
from typing import NamedTuple

from mountd.core.acl import AclEntry, AclTag
from mountd.core.model import Person
from mountd.kernel.paths import ROOT
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.syscalls import Fd, faccessat2, setgroups

_libc = ctypes.CDLL(None)
_UNCHANGED = -1  # no id at all: setfsuid answers with the one in force


class May(NamedTuple):
    """What the kernel answers to each wish: 0, or the errno that it would be refused with."""

    read: int
    write: int
    execute: int


def can_act_as_others() -> bool:
    """Whether this process may ask as another user."""
    return os.geteuid() == ROOT and not missing_capabilities(["CAP_SETUID", "CAP_SETGID"])


def first_closed(folders: Sequence[str], person: Person) -> str | None:
    """The first of these folders, each in the one before it, through which the person can't go.

    What isn't there is closed to nobody. Raises OSError where it can't be asked.
    """
    with acting_as(person):
        for folder in folders:
            try:
                faccessat2(None, folder, os.X_OK)
            except PermissionError as error:
                if error.errno == EPERM:  # a seccomp filter's word
                    raise
                return folder
            except (FileNotFoundError, NotADirectoryError):
                return None
    return None


def may(file: Fd, person: Person | None) -> May:
    """What the person may do with what is open, whatever lies above it; None: we ourselves.

    Raises OSError where it can't be asked.
    """
    with acting_as(person):
        return May(*(_answer(file, "", mode) for mode in (os.R_OK, os.W_OK, os.X_OK)))


def reach(path: str, person: Person | None) -> int:
    """0 if the person gets to an absolute path, links and all, or what the kernel says."""
    with acting_as(person):
        return _answer(None, path, os.F_OK)


def _answer(file: Fd | None, path: str, mode: int) -> int:
    try:
        faccessat2(file, path, mode)
    except OSError as error:
        if error.errno == ENOSYS:
            raise
        return error.errno or 0
    return 0


def acl_of(file: Fd) -> tuple[AclEntry, ...]:
    """The entries of a POSIX ACL, as seen through the mount; none where there is none to see."""
    try:
        value = os.getxattr(f"/proc/self/fd/{file.number}", "system.posix_acl_access")
    except OSError:
        return ()
    return tuple(
        AclEntry(_ACL_TAGS[tag], bits, id_)
        for tag, bits, id_ in iter_unpack("<HHI", value[4:])
        if tag in _ACL_TAGS
    )


_ACL_TAGS: dict[int, AclTag] = {  # linux/posix_acl.h
    0x01: "user-owner",
    0x02: "user",
    0x04: "group-owner",
    0x08: "group",
    0x10: "mask",
    0x20: "other",
}


@contextmanager
def acting_as(person: Person | None) -> Iterator[None]:
    """Have this thread, and no other, be let through as this person; None: as ourselves."""
    if person is None:
        yield
        return
    before = os.getgroups()
    setgroups(person.groups)
    try:
        _libc.setfsgid(person.gid)
        _libc.setfsuid(person.uid)
        in_force = (_libc.setfsuid(_UNCHANGED), _libc.setfsgid(_UNCHANGED))
        if tuple(each & 0xFFFFFFFF for each in in_force) != (person.uid, person.gid):
            raise PermissionError(EPERM, f"setfsuid: {os.strerror(EPERM)}")
        yield
    finally:
        _libc.setfsuid(ROOT)
        _libc.setfsgid(ROOT)
        setgroups(before)
