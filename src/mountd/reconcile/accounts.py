"""User strings → ids, from the passwd and group files of a root filesystem.

The files alone are asked, never NSS, which could hang a boot. A malformed line is skipped, and the
first that fits counts (passwd(5), group(5)); names are bytes, so a file need not be UTF-8.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from errno import EFBIG, EINVAL
from itertools import islice

from mountd.core.exposure import Asked
from mountd.core.idmapping import ID_COUNT
from mountd.core.model import Ids, User, Volume
from mountd.core.mounts import Nobodys
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.cause import fault_of
from mountd.kernel.paths import open_in_root, open_path
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import NotAFileError, UnsafeLinkError, kind_in_words, open_trusted
from mountd.reconcile.reading import read_bounded

_MOST_BYTES = 16 << 20
_MOST_BYTES_ELSEWHERE = 1 << 20
"""Of a file that may be a user's, who could have a pass of root's read for as long as she likes."""


_REGULAR = range(1_000, 60_000)
"""The uids of people, as useradd(8) gives them: whose homes are theirs alone."""


class Accounts:
    """The accounts of one root filesystem, each file read once, when first needed."""

    def __init__(self, root: str, *, is_acting: bool) -> None:
        """`is_acting`: files of `/` that others than root could write are refused."""
        self.root = root
        self.warnings: list[str] = []
        """Who but root could have written these files, where that is a warning only."""
        self.missing: set[str] = set()
        """The files that were looked for and are not there."""
        self._is_acting = is_acting
        self._passwd: _Passwd | None = None
        self._group: _Group | None = None
        self._subordinates: list[range] | None = None
        self._homes: dict[str, list[tuple[str, str]]] | None = None

    def resolve_user(self, spec: str) -> User:
        """The ids that an OCI image's USER means: `name`, `uid`, `name:group`, `uid:gid`, any mix.

        Raises VolumeError: pending (`no-user`, `no-group`) where a name is not there yet.
        """
        name, _, group = spec.partition(":")
        if _is_number(name):
            uid = _number(name)
            gid = None if group else self.passwd.group_of(uid)
        elif ids := self.passwd.ids_of(name.encode()):
            uid, gid = ids
        else:
            raise VolumeError(faults.no_user(name, self._path("passwd")))
        if group:
            gid = _number(group) if _is_number(group) else self.group.id_of(group.encode())
            if gid is None:
                raise VolumeError(faults.no_group(group, self._path("group")))
        return User(uid, gid)

    def has_uid(self, uid: int) -> bool:
        """Whether there is an account with this uid."""
        return self.passwd.group_of(uid) is not None

    def can_be(self, uid: int) -> bool:
        """Whether there is an account with this uid, or one that may use it as a subordinate."""
        return self.has_uid(uid) or any(uid in each for each in self.subordinates)

    @property
    def homes(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """The homes of regular accounts, each with whose it is, by their last names."""
        if self._homes is None:
            self._homes = {}
            for name, uid, path in self.passwd.homes():
                if uid in _REGULAR and not self.warnings:  # else a pass by root doesn't read it
                    home = os.path.normpath(os.fsdecode(path))
                    last = os.path.basename(home)
                    self._homes.setdefault(last, []).append((home, os.fsdecode(name)))
        return self._homes

    def groups_of(self, uid: int) -> set[int]:
        """The groups that have an account with this uid as a member."""
        return self.group.with_member({*self.passwd.names_of(uid)})

    def some_names(self, most: int) -> list[str]:
        """The names of accounts, `most` at most."""
        return [os.fsdecode(each) for each in islice(self.passwd.names(), most)]

    def name_of(self, ids: Ids) -> str:
        """Who these ids are here: `node`, or `node:staff`; nothing where neither has a name."""
        uid, gid = ids
        user = next(self.passwd.names_of(uid), None)
        group = self.group.name_of(gid)
        if user is None and group is None:
            return ""
        names = [
            str(number) if name is None else os.fsdecode(name)
            for name, number in ((user, uid), (group, gid))
        ]
        return names[0] if names[0] == names[1] else ":".join(names)

    @property
    def is_read(self) -> bool:
        """Whether both files have been looked up."""
        return self._passwd is not None and self._group is not None

    @property
    def passwd(self) -> "_Passwd":
        """etc/passwd; empty where it is missing."""
        if self._passwd is None:
            self._passwd = _Passwd(self._read("passwd"))
        return self._passwd

    @property
    def group(self) -> "_Group":
        """etc/group; empty where it is missing."""
        if self._group is None:
            self._group = _Group(self._read("group"))
        return self._group

    @property
    def subordinates(self) -> list[range]:
        """The ids of etc/subuid and etc/subgid, which processes of its accounts can take."""
        if self._subordinates is None:
            content = self._read("subuid") + b"\n" + self._read("subgid")
            self._subordinates = [*_ranges(content)]
        return self._subordinates

    def _path(self, name: str) -> str:
        return os.path.join(self.root, "etc", name)

    def _read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            if self.root == "/":
                file, distrusts = open_trusted(path, may_lead_through_sticky=False)
            else:
                root, _ = open_path(self.root)
                with root:
                    file, distrusts = open_in_root(root, f"etc/{name}"), []
            with file:
                if distrusts and self._is_acting:
                    raise VolumeError(faults.unsafe_file(distrusts[0]))
                self.warnings += [f"{each}: a pass by root refuses that" for each in distrusts]
                return _content(
                    file, path, _MOST_BYTES if self.root == "/" else _MOST_BYTES_ELSEWHERE
                )
        except FileNotFoundError:
            self.missing.add(path)
            return b""
        except (UnsafeLinkError, PermissionError):
            raise  # the resolver's sentences fit
        except NotAFileError as error:
            raise VolumeError(faults.not_a_file(path, error.strerror or "")) from error
        except OSError as error:
            raise VolumeError(fault_of(error, f"read {path}")) from error


# A file may be a user's, with as many lines as she likes: what is asked is looked for in its text,
# and nothing is made of all its lines.


class AccountsOfAll:
    """The accounts of every root filesystem that a volume names."""

    def __init__(self, *, is_acting: bool) -> None:
        self._is_acting = is_acting
        self._by_root: dict[str, Accounts] = {}
        self._users: dict[tuple[str, str], User] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Who but root could have written the files that were looked at."""
        return tuple(each for one in self._by_root.values() for each in one.warnings)

    def user_of(self, volume: Volume) -> User | None:
        """Whom a volume's `user` means. Raises VolumeError, as `resolve_user` does."""
        if volume.user is None:
            return None
        key = volume.accounts, volume.user
        if key not in self._users:
            self._users[key] = self.of(volume.accounts).resolve_user(volume.user)
        return self._users[key]

    def nobodys(self, questions: Asked) -> Nobodys:
        """Which of these uids nobody on this machine can have, by the account files of `/`."""
        accounts = self.of("/")
        nobodys, trouble = questions.accounts, ""
        try:
            nobodys = frozenset(it for it in nobodys if not accounts.has_uid(it))
            nobodys |= {it for it in questions.heirs if not accounts.can_be(it)}
        except VolumeError as error:
            trouble = error.fault.message
        except OSError as error:
            trouble = f"{error.filename or 'an account file'}: {error.strerror}"
        return Nobodys(nobodys, trouble)

    def of(self, root: str) -> Accounts:
        """Those of one root filesystem."""
        if root not in self._by_root:
            self._by_root[root] = Accounts(root, is_acting=self._is_acting)
        return self._by_root[root]


class _Passwd:
    """Lines are `name:password:uid:gid:…` (passwd(5))."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def ids_of(self, name: bytes) -> tuple[int, int] | None:
        """Those of the first account of this name."""
        for line in _lines_of(name, self._content):
            if (found := re.match(_ACCOUNT, line)) and _is_id(found[2]) and _is_id(found[3]):
                return int(found[2]), int(found[3])
        return None

    def group_of(self, uid: int) -> int | None:
        """The group of the first account with this uid."""
        return next((gid for _, each, gid in self._rows() if each == uid), None)

    def names_of(self, uid: int) -> Iterator[bytes]:
        """The names of the accounts with this uid, in their order."""
        return (name for name, each, _ in self._rows() if each == uid)

    def names(self) -> Iterator[bytes]:
        """The names of all accounts."""
        return (name for name, _, _ in self._rows())

    def homes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Of the accounts that have one: the name, the uid and the home."""
        for name, uid, home in (each.groups() for each in re.finditer(_HOME, self._content)):
            if _is_id(uid):
                yield name, int(uid), home

    def _rows(self) -> Iterator[tuple[bytes, int, int]]:
        for name, uid, gid in (each.groups() for each in re.finditer(_ACCOUNT, self._content)):
            if _is_id(uid) and _is_id(gid):
                yield name, int(uid), int(gid)


class _Group:
    """Lines are `name:password:gid:member,member…` (group(5))."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def id_of(self, name: bytes) -> int | None:
        """That of the first group of this name."""
        for line in _lines_of(name, self._content):
            if (found := re.match(_GROUP, line)) and _is_id(found[2]):
                return int(found[2])
        return None

    def name_of(self, gid: int) -> bytes | None:
        """The name of the first group with this id."""
        return next((name for name, each, _ in self._rows() if each == gid), None)

    def with_member(self, names: AbstractSet[bytes]) -> set[int]:
        """The groups that have one of these as a member."""
        return {
            gid
            for _, gid, members in self._rows()
            if members and not names.isdisjoint(members.split(b","))
        }

    def _rows(self) -> Iterator[tuple[bytes, int, bytes | None]]:
        for name, gid, members in (each.groups() for each in re.finditer(_GROUP, self._content)):
            if _is_id(gid):
                yield name, int(gid), members


# not compiled before there is a name to look up
_LINE = rb"(?m)^([^:#\n][^:\n]*):[^:\n]*:([0-9]+)"
_ACCOUNT = _LINE + rb":([0-9]+)(?=[:\n]|\Z)"
_HOME = _LINE + rb":[0-9]+:[^:\n]*:(/[^:\n]*)(?=[:\n]|\Z)"
_GROUP = _LINE + rb"(?::([^:\n]*)|(?=\n|\Z))"


def _lines_of(name: bytes, content: bytes) -> Iterator[bytes]:
    """The lines that begin with a name, in their order."""
    begin = b"\n%b:" % name
    if content.startswith(begin[1:]):
        yield content.split(b"\n", 1)[0]
    at = content.find(begin)
    while at >= 0:
        end = content.find(b"\n", at + 1)
        yield content[at + 1 : end if end >= 0 else len(content)]
        at = content.find(begin, at + 1)


def _ranges(content: bytes) -> Iterator[range]:
    """Lines are `name:start:count` (subuid(5)); shadow reads numbers as C does, also 0x10, 010."""
    for line in content.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) == 3:
            start, count = map(_c_number, fields[1:])
            if start is not None and count is not None:
                yield range(start, start + count)


def _c_number(field: bytes) -> int | None:
    digits = field.strip().removeprefix(b"+").lower()
    base = 16 if digits.startswith(b"0x") else 8 if digits.startswith(b"0") else 10
    try:
        return int(digits, base) if len(digits) <= 20 else None
    except ValueError:
        return None


def _is_id(field: bytes) -> bool:
    return field.isdigit() and len(field) <= 10 and int(field) < ID_COUNT


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _number(digits: str) -> int:
    return int(digits.lstrip("0") or "0")  # Python refuses 4,300 digits, zeros or not


def _content(file: Fd, path: str, most: int) -> bytes:
    mode = os.fstat(file.number).st_mode
    if not stat.S_ISREG(mode):
        raise NotAFileError(EINVAL, kind_in_words(mode), path)
    try:
        return read_bounded(file, most)
    except OSError as error:
        if error.errno != EFBIG:
            raise
        raise VolumeError(faults.too_many_accounts(path, most >> 20)) from error
