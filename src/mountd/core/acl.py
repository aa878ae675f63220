"""POSIX ACLs (acl(5)): which entry decides for a user, for the sake of telling it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mountd.core.model import Person

AclTag = Literal["user-owner", "user", "group-owner", "group", "mask", "other"]


class AclEntry(NamedTuple):
    """An entry, its `id` as it is seen here."""

    tag: AclTag
    bits: int
    id: int

    def __str__(self) -> str:
        word, _, owner = self.tag.partition("-")
        named = str(self.id) if self.tag in ("user", "group") and not owner else ""
        return f"{word}:{named}:{rwx(self.bits)}"


def rwx(bits: int) -> str:
    """Three bits as ls(1) shows them."""
    return "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))


def deciding_entry(acl: Sequence[AclEntry], group: int, person: Person) -> AclEntry | None:
    """The entry that counts for someone who isn't the owner; None where several groups' do.

    `group` is the file's own.
    """
    for each in acl:
        if each.tag == "user" and each.id == person.uid:
            return each
    groups = {person.gid, *person.groups}
    mine = [
        each
        for each in acl
        if (each.tag == "group" and each.id in groups)
        or (each.tag == "group-owner" and group in groups)
    ]
    if mine:
        return mine[0] if len(mine) == 1 else None
    return next((each for each in acl if each.tag == "other"), None)
