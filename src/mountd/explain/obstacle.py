"""What stops a user at a file or folder, as a person reads it: what, why, and what would help.

The kernel decides, and says so by an errno; here is only told why it did. One function for each
reason, so that all sentences can be read, and mended, in one sitting.
"""

# ruff: noqa: D103 - each function's name is what its sentence says

import errno as _errno
import stat
from collections.abc import Sequence
from typing import Literal

from mountd.core.idmapping import OVERFLOW_ID, Extents, inverse, seen_as
from mountd.core.model import Ids, Person
from mountd.core.mounts import ObservedMount
from mountd.core.named_tuple import NamedTuple
from mountd.core.served import has_server
from mountd.core.words.commands import mountd, shell
from mountd.explain.travel import Arrival

Wish = Literal["read", "write", "execute"]
Code = Literal[
    "mode", "acl", "read-only", "unmapped", "immutable", "noexec", "link", "missing",
    "not-a-folder", "not-answering", "not-visible", "refused",
]  # fmt: skip
_LETTERS: dict[Wish, str] = {"read": "r", "write": "w", "execute": "x"}
_BITS: dict[Wish, int] = {"read": 4, "write": 2, "execute": 1}


class Place(NamedTuple):
    """A file or folder on the way, as it is seen, and the mount that it lies on if that is known.

    `attribute`: one of chattr(1)'s that stops root too.
    """

    path: str
    owner: Ids
    mode: int
    has_acl: bool
    attribute: Literal["immutable", "append-only"] | None
    mount: ObservedMount | None


class Share(NamedTuple):
    """The volume whose mount a place lies on: what of it may be the reason.

    `owner` is its source's, as the mount shows it. `remedy`: where ids are not as they should be,
    what would make them so. `said` are the flags that the manifest asks for, each with the line;
    `inherited` those of the source's own mount.
    """

    owner: Ids
    remedy: str | None
    said: dict[str, str]
    inherited: frozenset[str]


class Obstacle(NamedTuple):
    """What stops the user, and where; `hint`: what would help, None where nothing does."""

    code: Code
    path: str
    message: str
    hint: str | None = None


def obstacle(wish: Wish, errno: int, place: Place, person: Person, share: Share | None) -> Obstacle:
    """Why the kernel answered so. `share` is given where the place lies on the volume's mount."""
    is_file = stat.S_ISREG(place.mode)
    if errno == _errno.EROFS or (wish == "write" and is_read_only(place.mount)):
        return _read_only(place, share)  # whatever else there is: no chmod would help
    if errno == _errno.EPERM and place.attribute:
        return _immutable(place)
    if errno != _errno.EACCES:
        return _refused(errno, place, person)
    if wish == "write" and _is_unmapped(place):
        return _unmapped(place)
    if wish == "execute" and is_file and place.mode & 0o111 and _has(place.mount, "noexec"):
        return _noexec(place, share)
    if place.owner.uid != person.uid and place.has_acl:
        return _acl(wish, place, person)
    who = _class_of(place, person)
    if place.mode >> _SHIFTS[who] & _BITS[wish]:
        return _refused(errno, place, person)
    return _mode(wish, place, person, share, who)


_Class = Literal["its owner", "its group", "others"]
_SHIFTS: dict[_Class, int] = {"its owner": 6, "its group": 3, "others": 0}


def _class_of(place: Place, person: Person) -> _Class:
    if place.owner.uid == person.uid:
        return "its owner"
    return "its group" if place.owner.gid in (person.gid, *person.groups) else "others"


def _mode(wish: Wish, place: Place, person: Person, share: Share | None, who: _Class) -> Obstacle:
    letter = _LETTERS[wish]
    message = f"{_told(place)} gives {who} no {letter}"
    remedy = shell("chmod", f"{_CHMOD[who]}+{letter}", place.path)
    if share and share.remedy and place.owner == share.owner and who != "its owner":
        if place.mode >> _SHIFTS["its owner"] & _BITS[wish]:  # else it would be no help
            return Obstacle("mode", place.path, message, share.remedy)
    elif share and place.owner.uid != person.uid == share.owner.uid:
        remedy = shell("chown", str(share.owner), place.path) + " makes it the source owner's"
    if who != "its owner":
        has = place.mode >> _SHIFTS[who]
        remedy += f", or for this user alone {_setfacl(place, person, has | _BITS[wish])}"
    return Obstacle("mode", place.path, message, remedy)


_CHMOD: dict[_Class, str] = {"its owner": "u", "its group": "g", "others": "o"}


def _told(place: Place) -> str:
    return f"{place.path} (mode {stat.S_IMODE(place.mode):04o}, of {place.owner})"


def _acl(wish: Wish, place: Place, person: Person) -> Obstacle:
    """Which of its entries counts is for `getfacl` to show."""
    bits = _BITS[wish] | (0o7 if stat.S_ISDIR(place.mode) else 0o6)
    shows = shell("getfacl", place.path)
    hint = f"{shows} shows it, {_setfacl(place, person, bits)} adds the user to it"
    message = f"{_told(place)} has an ACL that gives no {_LETTERS[wish]}"
    return Obstacle("acl", place.path, message, hint)


def _setfacl(place: Place, person: Person, bits: int) -> str:
    """One's own entry counts instead of the group's or others', so it repeats what they gave."""
    letters = "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if bits & bit)
    return shell("setfacl", "-m", f"u:{person.uid}:{letters}", place.path)


def is_read_only(mount: ObservedMount | None) -> bool:
    """Whether nothing can be written through a mount, whoever tries."""
    return mount is not None and (mount.flags.read_only or mount.is_fs_read_only)


def _read_only(place: Place, share: Share | None) -> Obstacle:
    mount = place.mount
    if mount and mount.is_fs_read_only and not (share and "read_only" in share.said):
        message = f"the filesystem that {place.path} lies on ({mount.fs_type}) is read-only"
        shows = shell("findmnt", "--target", place.path)
        hint = f"{shows} shows it; mount it read-write where it comes from"
        return Obstacle("read-only", place.path, message, hint)
    if share:
        return _by_flag("read-only", "read_only", place, share)
    where = f"the mount at {mount.point}" if mount else f"the mount that {place.path} lies on"
    remedy = shell("mount", "-o", "remount,bind,rw", mount.point) if mount else None
    return Obstacle("read-only", place.path, f"{where} is read-only", remedy)


def _noexec(place: Place, share: Share | None) -> Obstacle:
    if share:
        return _by_flag("noexec", "noexec", place, share)
    assert place.mount, "its flags were looked at"
    hint = shell("mount", "-o", "remount,bind,exec", place.mount.point)
    return Obstacle("noexec", place.path, f"the mount at {place.mount.point} is noexec", hint)


def _by_flag(
    code: Literal["read-only", "noexec"], key: str, place: Place, share: Share
) -> Obstacle:
    """The volume's mount has a flag: by its manifest, from its source's own mount, or by drift."""
    if line := share.said.get(key):
        return Obstacle(
            code, place.path, f"the volume is {code}: {line}", f"take `{key} = true` out"
        )
    if key in share.inherited:
        message = f"the volume is {code}, as its source's own mount is"
        return Obstacle(code, place.path, message, f"remount that, or set `{key} = false`")
    message = f"someone made the volume's mount {code}, which the manifest doesn't say"
    return Obstacle(code, place.path, message, f"{mountd('reconcile')} undoes it")


def _unmapped(place: Place) -> Obstacle:
    message = (
        f"{place.path} belongs to an id that the idmapping doesn't cover (seen as {OVERFLOW_ID}),"
        " so nobody may write it"
    )
    hint = "add an extent for the id that it is stored as"
    return Obstacle("unmapped", place.path, message, hint)


def _is_unmapped(place: Place) -> bool:
    if not place.mount or not place.mount.idmap:
        return False
    return any(map(_is_left_out, place.mount.idmap, place.owner))


def _is_left_out(extents: Extents, shown: int) -> bool:
    return shown == OVERFLOW_ID and seen_as(inverse(extents), shown) is None


def _immutable(place: Place) -> Obstacle:
    message = f"{place.path} is {place.attribute} (`lsattr` shows it), which stops root too"
    flag = "-i" if place.attribute == "immutable" else "-a"
    return Obstacle("immutable", place.path, message, shell("chattr", flag, place.path))


def _refused(errno: int, place: Place, person: Person) -> Obstacle:
    message = f"{_told(place)}: {said(errno)}, though neither mode nor flags stop {person.name}"
    hint = "a security module may: `journalctl -k` tells of AppArmor's and SELinux's refusals"
    fs_type = place.mount.fs_type if place.mount else ""
    if fs_type.startswith("fuse"):
        hint = "FUSE lets only the user who mounted it in, unless it is mounted with `allow_other`"
    elif has_server(fs_type):
        hint = f"the server behind {fs_type} refuses it: see the rights of the ids stored there"
    return Obstacle("refused", place.path, message, hint)


def said(errno: int) -> str:
    """The kernel's words for what it answers on the way."""
    return _SAID.get(errno, f"error {errno}")


_SAID = {
    _errno.EACCES: "permission denied",
    _errno.EPERM: "operation not permitted",
    _errno.ENAMETOOLONG: "a name that is too long",
    _errno.ENOTCONN: "the server behind it is gone",
    _errno.EIO: "input/output error",
    _errno.ESTALE: "the server no longer has it",
    _errno.ETIMEDOUT: "the server doesn't answer",
}


def cannot_create(place: Place, person: Person, stored: Arrival) -> Obstacle:
    """The user's own ids are none that the mount's idmapping shows: EOVERFLOW."""
    sides = [("uid", person.uid, stored.uid), ("gid", person.gid, stored.gid)]
    lacks = [(side, id_) for side, id_, each in sides if each is None]
    which = " and ".join(f"{side} {id_}" for side, id_ in lacks)
    message = (
        f"the idmapping has no place for {person.name}'s {which}, so nothing can be created as it"
        ' ("Value too large for defined data type")'
    )
    extents = ", ".join(f"`{side}s` with `seen = {id_}`" for side, id_ in lacks)
    return Obstacle("unmapped", place.path, message, f"add an extent to {extents}")


def link_refused(links: Sequence[str], errno: int, person: Person) -> Obstacle:
    one = links[-1]
    if errno == _errno.ELOOP:
        message = f"{', '.join(links)}: a mount with `nosymfollow` lets no link be followed"
        return Obstacle("link", one, message, "name the path that the link leads to")
    message = f"{', '.join(links)}: the kernel doesn't let {person.name} follow a link here"
    hint = (
        "in a sticky folder that all can write, a link is followed only by its owner, and where"
        " it is the folder's owner's (fs.protected_symlinks)"
    )
    return Obstacle("link", one, message, hint)


def endless_link(path: str) -> Obstacle:
    message = f"the link {path} leads to itself, or to more than 40 others one after the other"
    hint = f"{shell('readlink', path)} shows where it leads; fix it"
    return Obstacle("link", path, message, hint)


def missing(path: str) -> Obstacle:
    return Obstacle("missing", path, f"there is no {path}")


def not_a_folder(path: str) -> Obstacle:
    return Obstacle("not-a-folder", path, f"{path} is no folder, so nothing lies below it")


def not_visible(path: str, hint: str) -> Obstacle:
    message = f"{path} can't be looked at by us: {said(_errno.EACCES)}"
    return Obstacle("not-visible", path, message, hint)


def shut(path: str, hint: str) -> Obstacle:
    """To us and to the user alike."""
    return Obstacle("refused", path, f"{path}: {said(_errno.EACCES)}, for root too", hint)


def failing(path: str, errno: int) -> Obstacle:
    is_gone = errno == _errno.ENOTCONN
    hint = "unmount it, and start the server again" if is_gone else None
    return Obstacle("refused", path, f"{path}: {said(errno)}", hint)


def not_answering(path: str, seconds: float) -> Obstacle:
    hint = "see whether the server behind it (FUSE, NFS, virtiofs) is alive"
    message = f"no answer within {seconds:g} s on the way to {path}"
    return Obstacle("not-answering", path, message, hint)


def _has(mount: ObservedMount | None, flag: Literal["noexec"]) -> bool:
    return mount is not None and bool(getattr(mount.flags, flag))
