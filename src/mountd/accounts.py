"""User strings → ids, from the passwd and group files of a root filesystem.

The files alone are asked, never NSS, which could hang a boot. A malformed line is skipped, and the
first that fits counts (passwd(5), group(5)); names are bytes, so a file need not be UTF-8.
"""

import os
import stat
from collections.abc import Iterator
from errno import EINVAL

from mountd.core import faults
from mountd.core.faults import VolumeError
from mountd.core.idmapping import ID_COUNT
from mountd.core.model import Ids, User
from mountd.kernel.cause import fault_of
from mountd.kernel.paths import (
    NotAFileError,
    UnsafeLinkError,
    kind_in_words,
    open_in_root,
    open_path,
    open_trusted,
)
from mountd.kernel.syscalls import Fd
from mountd.reading import read_bounded

_MOST_BYTES = 16 << 20


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

    def resolve_user(self, spec: str) -> User:
        """The ids that an OCI image's USER means: `name`, `uid`, `name:group`, `uid:gid`, any mix.

        Raises VolumeError: pending (`no-user`, `no-group`) where a name is not there yet.
        """
        name, _, group = spec.partition(":")
        if _is_number(name):
            uid = _number(name)
            gid = None if group else self.passwd.group_of.get(uid)
        elif name.encode() in self.passwd.by_name:
            uid, gid = self.passwd.by_name[name.encode()]
        else:
            raise VolumeError(faults.no_user(name, self._path("passwd")))
        if group:
            gid = _number(group) if _is_number(group) else self.group.by_name.get(group.encode())
            if gid is None:
                raise VolumeError(faults.no_group(group, self._path("group")))
        return User(uid, gid)

    def has_uid(self, uid: int) -> bool:
        """Whether there is an account with this uid."""
        return uid in self.passwd.group_of

    def can_be(self, uid: int) -> bool:
        """Whether there is an account with this uid, or one that may use it as a subordinate."""
        return self.has_uid(uid) or any(uid in each for each in self.subordinates)

    def groups_of(self, uid: int) -> set[int]:
        """The groups that have an account with this uid as a member."""
        names = [name for name, ids in self.passwd.by_name.items() if ids[0] == uid]
        return {gid for name in names for gid in self.group.with_member.get(name, ())}

    def name_of(self, ids: Ids) -> str:
        """Who these ids are here: `node`, or `node:staff`; nothing where neither has a name."""
        uid, gid = ids
        user = next((name for name, each in self.passwd.by_name.items() if each[0] == uid), None)
        group = next((name for name, each in self.group.by_name.items() if each == gid), None)
        if user is None and group is None:
            return ""
        names = [
            str(number) if name is None else os.fsdecode(name)
            for name, number in ((user, uid), (group, gid))
        ]
        return names[0] if names[0] == names[1] else ":".join(names)

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
                return _content(file, path)
        except FileNotFoundError:
            self.missing.add(path)
            return b""
        except (UnsafeLinkError, PermissionError):
            raise  # the resolver's sentences fit
        except NotAFileError as error:
            raise VolumeError(faults.not_a_file(path, error.strerror or "")) from error
        except OSError as error:
            raise VolumeError(fault_of(error, f"read {path}")) from error


class _Passwd:
    def __init__(self, content: bytes) -> None:
        self.by_name: dict[bytes, tuple[int, int]] = {}
        self.group_of: dict[int, int] = {}
        for row in _rows(content, numbers=(2, 3)):
            uid, gid = int(row[2]), int(row[3])
            self.by_name.setdefault(row[0], (uid, gid))
            self.group_of.setdefault(uid, gid)


class _Group:
    def __init__(self, content: bytes) -> None:
        self.by_name: dict[bytes, int] = {}
        self.with_member: dict[bytes, set[int]] = {}
        for row in _rows(content, numbers=(2,)):
            gid = int(row[2])
            self.by_name.setdefault(row[0], gid)
            for member in row[3].split(b",") if len(row) > 3 else ():
                self.with_member.setdefault(member, set()).add(gid)


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


def _rows(content: bytes, *, numbers: tuple[int, ...]) -> Iterator[list[bytes]]:
    """The well-formed lines, split: a name, and ids in the columns `numbers`."""
    for line in content.split(b"\n"):
        row = line.split(b":")
        is_named = row[0][:1] not in (b"", b"#")
        if is_named and len(row) > numbers[-1] and all(_is_id(row[column]) for column in numbers):
            yield row


def _is_id(field: bytes) -> bool:
    return field.isdigit() and len(field) <= 10 and int(field) < ID_COUNT


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _number(digits: str) -> int:
    return int(digits.lstrip("0") or "0")  # Python refuses 4,300 digits, zeros or not


def _content(file: Fd, path: str) -> bytes:
    mode = os.fstat(file.number).st_mode
    if not stat.S_ISREG(mode):
        raise NotAFileError(EINVAL, kind_in_words(mode), path)
    try:
        return read_bounded(file, _MOST_BYTES)
    except OSError as error:
        raise OSError(error.errno, f"{path} is {error.strerror}") from error
