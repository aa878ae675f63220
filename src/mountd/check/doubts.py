"""What is legal but likely wrong with volumes, as this machine is: what `mountd check` warns of.

Each look is bounded in entries and in time, and a server that hangs costs its own volume only.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import takewhile

from mountd.check import words as doubt
from mountd.check.words import Doubt, Who
from mountd.core.actions import Action, Report
from mountd.core.desired import DesiredMount
from mountd.core.idmapping import OVERFLOW_ID
from mountd.core.model import Ids, Person, User
from mountd.core.mounts import ObservedMount, parents_of
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import Places, folders_above, is_within
from mountd.core.words.faults import VolumeError
from mountd.kernel.access import can_act_as_others, first_closed
from mountd.kernel.cause import let_in, unanswered
from mountd.kernel.contents import names_in
from mountd.kernel.files import statx
from mountd.kernel.observe import observe
from mountd.kernel.patience import PATIENCE, Looker, Patience
from mountd.kernel.privileges import how_to_have, missing_capabilities
from mountd.reconcile.accounts import Accounts
from mountd.reconcile.filesystems import raw_mounts
from mountd.reconcile.record import read_record
from mountd.reconcile.sources import Source, Sources

_MOST_NAMES = 1_000


class Doubts(NamedTuple):
    """What was found, and sentences about what could not be looked at."""

    found: tuple[Doubt, ...]
    unseen: tuple[str, ...]


def find_doubts(result: Report, state_dir: str) -> Doubts:
    """What is to be doubted of volumes that nothing else is wrong with, after a dry pass."""
    actions = [each.action for each in result.outcomes]
    staying = [each for each in actions if not each.is_departure]
    doubter = _Doubter(actions, state_dir)
    looker = Looker[Action, list[Doubt]](
        Patience(), doubter.look, _give_up, key=lambda action: action.volume
    )
    found = [each for doubts in looker.look_at(staying) for each in doubts]
    return Doubts(tuple(found), tuple(_unseen(staying)))


def with_doubts(result: Report, found: Sequence[Doubt]) -> Report:
    """The pass with what was found among its volumes' notes."""
    texts: dict[str, list[str]] = {}
    for each in found:
        texts.setdefault(each.volume, []).append(each.text)
    outcomes = (
        each._replace(action=_with_notes(each.action, texts.get(each.action.volume, ())))
        for each in result.outcomes
    )
    return result._replace(outcomes=tuple(outcomes))


def _with_notes(action: Action, notes: Sequence[str]) -> Action:
    if action.is_departure:
        return action
    return action._replace(notes=(*dict.fromkeys((*action.notes, *notes)),))


def _give_up(action: Action, error: OSError) -> list[Doubt]:
    if isinstance(error, TimeoutError):
        found = doubt.not_answering(action.volume, action.source, action.target, PATIENCE)
    else:
        fault = unanswered(error, action.source, action.target)
        found = doubt.not_looked_at(action.volume, fault.message)
    return [found]


def _unseen(staying: Sequence[Action]) -> Iterator[str]:
    mounts = [each.mount for each in staying if each.mount]
    if missing_capabilities(["CAP_SYS_ADMIN"]) and any(each.choice.idmap for each in mounts):
        yield (
            "whether the filesystems take the idmappings was not tried: that needs CAP_SYS_ADMIN; "
            + how_to_have("CAP_SYS_ADMIN")
        )
    if not can_act_as_others() and any(each.user and each.user.uid for each in mounts):
        yield (
            "whether the users reach their targets was not looked at: only root may ask that; "
            + how_to_have("CAP_SETUID", "CAP_SETGID")
        )


class _Doubter:
    """Looks at one volume after the other, and remembers what they have in common."""

    def __init__(self, actions: Sequence[Action], state_dir: str) -> None:
        observed = observe()
        self._mounts = observed.mounts
        self._by_point = sorted(self._mounts.values(), key=lambda each: each.point)
        targets = [each.target for each in actions]
        self._targets = Places(targets)
        changing = (each.target for each in actions if each.verb not in ("keep", "adjust"))
        self._changing = Places(changing)
        volumes = [each.mount.volume for each in actions if each.mount]
        bases = raw_mounts(volumes, self._mounts, read_record(state_dir), Patience())
        self._sources = Sources(observed, {}, bases)
        self._accounts: dict[str, Accounts] = {}
        self._closed: dict[tuple[str, Person], str | None] = {}
        self._can_act_as_others = can_act_as_others()

    def look(self, action: Action) -> list[Doubt]:
        """What is to be doubted of a volume."""
        found: list[Doubt] = []
        try:
            found += self._hidden(action)
            if mount := action.mount:
                found += self._about_source(mount)
                found += self._about_user(mount)
        except VolumeError as error:  # it changed since it was resolved
            found.append(doubt.not_looked_at(action.volume, error.fault.message))
        except OSError as error:
            found.append(doubt.not_looked_at(action.volume, error.strerror or str(error)))
        return found

    def _hidden(self, action: Action) -> Iterator[Doubt]:
        """What lies in the target's folder, if a first mount is to come over it."""
        target = action.target
        if action.verb != "mount" or action.source == target or self._is_later(target):
            return
        try:
            names = names_in(target, _MOST_NAMES)
        except PermissionError:
            yield doubt.closed_to_us(action.volume, "target", target, let_in(target))
            return
        names = sorted(each for each in names if not self._targets.lie_within(f"{target}/{each}"))
        if names:
            count = len(names) if len(names) < _MOST_NAMES else None
            yield doubt.hides(action.volume, target, names, count)

    def _is_later(self, path: str) -> bool:
        """Whether it lies below a target at which something else is mounted first."""
        return next(self._changing.above(path), None) is not None

    def _about_user(self, mount: DesiredMount) -> Iterator[Doubt]:
        volume, user = mount.volume, mount.user
        if user is None or volume.user is None:
            return
        if mount.shared:
            yield Doubt(volume.name, "user", mount.shared)
        if OVERFLOW_ID in user:
            gid = OVERFLOW_ID if user.gid is None else user.gid
            yield doubt.overflow_user(volume.name, volume.user, Ids(user.uid, gid))
        accounts = self._accounts_of(volume.accounts)
        if user.gid is None:
            file = os.path.join(volume.accounts, "etc/passwd")
            accounts.has_uid(user.uid)  # so that the file has been read
            say = doubt.no_accounts if file in accounts.missing else doubt.no_account
            yield say(volume.name, file, user.uid)
        yield from self._out_of_reach(mount, user, accounts)

    def _accounts_of(self, root: str) -> Accounts:
        if root not in self._accounts:
            self._accounts[root] = Accounts(root, is_acting=False)
        return self._accounts[root]

    def _out_of_reach(self, mount: DesiredMount, user: User, accounts: Accounts) -> Iterator[Doubt]:
        """The folder above the target through which the user can't go."""
        if not self._can_act_as_others or user.uid == 0:
            return
        # what comes at the first of these decides
        first = min(self._changing.above(mount.target), key=len, default=mount.target)
        ways = ["/", *reversed(folders_above(first))]
        gid = user.gid or 0  # as for an OCI image's user without a group
        person = Person(user.uid, gid, tuple(sorted(accounts.groups_of(user.uid))))
        key = ways[-1], person
        if key not in self._closed:
            self._closed[key] = first_closed(ways, person)
        if closed := self._closed[key]:
            found = statx(None, closed)
            owner = Ids(found.uid, found.gid)
            is_member = owner.gid in (person.gid, *person.groups)
            who: Who = "u" if owner.uid == person.uid else "g" if is_member else "o"
            name, spec = mount.volume.name, mount.volume.user or ""
            yield doubt.out_of_reach(name, spec, mount.target, closed, (owner, found.mode), who)

    def _about_source(self, mount: DesiredMount) -> Iterator[Doubt]:
        volume = mount.volume
        if mount.refused:
            yield doubt.raw_ids(volume.name, mount.refused.fault)
        if self._sources.sleeps(mount.source):
            return  # what is mounted was made of it, and goes on without it
        source = self._sources.open(volume, mount.target, wakes=False)
        with source.fd:
            yield from self._left_out(mount, source)

    def _left_out(self, mount: DesiredMount, source: Source) -> Iterator[Doubt]:
        """The mounts below the source, which a clone that isn't recursive has not."""
        if mount.volume.recursive:
            return
        points = {
            each.point
            for each in self._below(source.path)
            if not is_within(each.point, mount.target)
            and any(it.id == source.mount.id for it in parents_of(each.id, self._mounts))
        }
        if points:
            yield doubt.left_out(mount.volume.name, source.path, sorted(points))

    def _below(self, path: str) -> Iterator[ObservedMount]:
        """The mounts whose points lie below a path."""
        begin = f"{path.rstrip('/')}/"
        first = bisect_left(self._by_point, begin, key=lambda each: each.point)
        return takewhile(lambda it: it.point.startswith(begin), self._by_point[first:])
