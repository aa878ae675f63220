"""Whom `mountd explain` asks the kernel about, and for which path."""

import os
from typing import Literal

from mountd.core.actions import Action
from mountd.core.model import Ids, Person, User, Volume
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import normalised_path
from mountd.core.words.faults import VolumeError
from mountd.core.words.spelling import nearest
from mountd.exits import ArgumentError
from mountd.kernel.access import can_act_as_others
from mountd.kernel.privileges import how_to_have
from mountd.manifest.values import why_no_user
from mountd.reconcile.accounts import Accounts

_ROOT = 0


class Asked(NamedTuple):
    """The volume's user and the person asked about, each None where that isn't known.

    `how` the kernel can be asked as that person, None where it can't; `unseen`: why, in sentences.
    """

    user: User | None
    person: Person | None
    how: Literal["as-another", "as-ourselves"] | None
    unseen: tuple[str, ...]


def asked_about(spec: str | None, volume: Volume | None, accounts: Accounts) -> Asked:
    """The user that `spec` names, else the volume's, else whoever runs us.

    Raises ArgumentError, and OSError where the accounts can't be read.
    """
    unseen = []
    user = None
    if volume and volume.user:
        try:
            user = accounts.resolve_user(volume.user)
        except VolumeError as error:
            hint = "" if spec else "; `--user USER` names somebody to ask about"
            unseen.append(f"{error.fault.message}, so who the user is isn't known{hint}")
    if spec is not None:
        person = _person(spec, _resolved(spec, accounts), accounts)
    elif user and volume and volume.user:
        person = _person(volume.user, user, accounts)
    elif volume and volume.user:
        return Asked(None, None, None, tuple(unseen))
    else:
        person = _ourselves(accounts)
    if can_act_as_others():
        return Asked(user, person, "as-another", tuple(unseen))
    if person.uid == os.geteuid():
        return Asked(user, _ourselves(accounts), "as-ourselves", tuple(unseen))
    how = how_to_have("CAP_SETUID", "CAP_SETGID")
    unseen.append(f"what {person.name} may was not asked, for that takes root's rights: {how}")
    return Asked(user, person, None, tuple(unseen))


def _resolved(spec: str, accounts: Accounts) -> User:
    if why := why_no_user(spec):
        raise ArgumentError(f"--user {why}", None)
    try:
        return accounts.resolve_user(spec)
    except VolumeError as error:
        name = spec.partition(":")[0]
        near = nearest(name, accounts.some_names(10_000))
        is_misspelt = near and error.fault.code == "no-user"
        hint = f"did you mean `{near}`?" if is_misspelt else "give ids as numbers"
        raise ArgumentError(error.fault.message, hint) from error


def _person(spec: str, user: User, accounts: Accounts) -> Person:
    """A process of this user as a login makes it: with the groups that the files give it."""
    gid = _ROOT if user.gid is None else user.gid  # as for an OCI image's user without a group
    groups = tuple(sorted(accounts.groups_of(user.uid) - {gid}))
    return Person(user.uid, gid, groups, _name(spec.partition(":")[0], user.uid, accounts))


def _ourselves(accounts: Accounts) -> Person:
    uid, gid = os.geteuid(), os.getegid()
    return Person(uid, gid, tuple(sorted({*os.getgroups()} - {gid})), _name("", uid, accounts))


def _name(word: str, uid: int, accounts: Accounts) -> str:
    if word and not word.isdigit():
        return word
    name = accounts.name_of(Ids(uid, uid)).partition(":")[0]
    return f"uid {uid}" if not name or name.isdigit() else name


def whole_path(path: str | None, action: Action, volume: Volume | None) -> str:
    """The path that is asked about: the target, or what lies below it, absolute or from there.

    Raises ArgumentError where it doesn't lie there.
    """
    target, source = action.target, action.source
    if path is None:
        return target
    if not path or "\0" in path:
        raise ArgumentError("PATH is empty", f"name a path below {target}")
    if ".." in path.split("/"):
        raise ArgumentError(f"`{path}` has `..` in it", "name the path without")
    if not path.startswith("/"):
        return normalised_path(f"{target}/{path}")
    path = normalised_path(path)
    for each in (target, volume.target if volume else target):  # which a link of root's may lead to
        if path == each or path.startswith(f"{each}/"):
            return target + path.removeprefix(each)
    hint = f"name a path below it, or one from there, such as `{os.path.basename(path)}`"
    if source.startswith("/") and (path == source or path.startswith(f"{source}/")):
        hint = f"at the target it is {target}{path.removeprefix(source)}"
    raise ArgumentError(f"{path} doesn't lie below the volume's target, {target}", hint)
