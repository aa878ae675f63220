"""`mountd explain`: how ids travel through one volume, and why, and what stops a user below it.

The kernel has the word: the idmapping is that of the live mount, and what the user may is asked of
the kernel as that user. What is not mounted yet is asked through a detached mount, which nobody
else can see. Nothing is changed.
"""

import stat
from collections.abc import Callable
from functools import cached_property, partial
from typing import TypeVar

from mountd.core.actions import Outcome, Report
from mountd.core.choice import ROOT
from mountd.core.idmapping import Idmapping
from mountd.core.model import Ids, Volume
from mountd.core.mounts import ObservedMount
from mountd.core.named_tuple import NamedTuple
from mountd.core.served import has_server
from mountd.core.words.faults import VolumeError
from mountd.explain import obstacle as words
from mountd.explain.asked import Asked, asked_about, whole_path
from mountd.explain.explanation import Explanation
from mountd.explain.obstacle import Share
from mountd.explain.reason import Lines, reason_for, share_of
from mountd.explain.travel import Kind, Origin, departure, rest, rows
from mountd.explain.verdict import Judge, Verdict
from mountd.kernel.access import Deputy, Ourselves, can_act_as_others
from mountd.kernel.observe import observe
from mountd.kernel.patience import PATIENCE, Looker, Patience
from mountd.kernel.route import Route, walk
from mountd.kernel.userns import known_ids
from mountd.manifest.load import Manifest, read_documents
from mountd.reconcile.accounts import Accounts
from mountd.reconcile.filesystems import raw_mounts
from mountd.reconcile.passes import Settings, layers_of, load, preview, unknown_volumes
from mountd.reconcile.reading import read_manifest, read_patiently
from mountd.reconcile.record import read_record
from mountd.reconcile.sources import Sources

_Answer = TypeVar("_Answer")


class _Learned(NamedTuple):
    """What a look changed here."""

    accounts: Accounts
    notes: list[str]
    ours: set[int]


def explain(settings: Settings, name: str, path: str | None, spec: str | None) -> Explanation:
    """Explain a volume, as far as `path` below its target, for the user that `spec` names.

    Raises ManifestError, and ArgumentError for those three.
    """
    layers = layers_of(settings.manifest)
    manifest = load(settings, is_acting=False, layers=layers)
    result = preview(settings, manifest)
    outcome = _outcome_of(name, result, settings)
    lines = Lines(read_documents(layers, partial(read_patiently, read_manifest)), name)
    explainer = _Explainer(settings, manifest, lines, outcome)
    place = whole_path(path, outcome.action, explainer.volume)
    found = explainer.explain(place, spec)
    return found._replace(is_asked=path is not None, warnings=result.warnings)


def _outcome_of(name: str, result: Report, settings: Settings) -> Outcome:
    """The volume's own, rather than that of a mount which leaves under its name."""
    found = [each for each in result.outcomes if each.action.volume == name]
    if not found:
        known = {each.action.volume for each in result.outcomes}
        raise unknown_volumes({name}, known, settings)
    return min(found, key=lambda it: it.action.is_departure)


class _Explainer:
    """One volume, and what has been seen of it."""

    def __init__(
        self, settings: Settings, manifest: Manifest, lines: Lines, outcome: Outcome
    ) -> None:
        self._outcome = outcome
        self._action = outcome.action
        named = (each for each in manifest.volumes if each.name == outcome.action.volume)
        self.volume: Volume | None = next(named, None)
        self._lines = lines
        observed = observe()
        self._tells_idmaps = observed.tells_idmaps
        self._mounts = observed.mounts
        record = read_record(settings.state_dir)
        bases = raw_mounts(manifest.volumes, observed.mounts, record, Patience())
        self._sources = Sources(observed, {}, bases)
        self._ours: set[int] = set()
        """The ids of the volume's mount, and of those that it includes."""
        root = self.volume.accounts if self.volume else "/"
        self._accounts = Accounts(root, is_acting=False)
        self._notes: list[str] = []
        if outcome.action.is_departure:
            self._notes.append("it is no longer in the manifest: the next pass takes it off")

    def explain(self, place: str, spec: str | None) -> Explanation:
        action, fault = self._action, self._outcome.fault
        idmap, origin = self._idmap
        late = Verdict(
            place, (), None, {"reach": None}, {"reach": words.not_answering(place, PATIENCE)}
        )
        asked, verdict = Asked(None, None, None, ()), late
        if not (fault and fault.code == "not-answering"):
            asked = self._patiently(lambda: self._asked(spec), asked)
            # as somebody else the kernel is asked by paths, which may lead anywhere
            verdict = self._patiently(lambda: self._verdict(place, asked), late, is_by_child=True)
        person = asked.person
        people = self._people(asked)
        told = rows(idmap, people) if origin else ()
        return Explanation(
            volume=action.volume,
            target=action.target,
            source=action.source,
            state=self._outcome.state,
            fault=fault,
            refused=action.refused,
            drift=action.drift,
            idmap=idmap,
            origin=origin,
            rows=told,
            names=tuple(self._name(each.seen.shown) for each in told),
            rest=rest(idmap, told, known_ids()) if origin else None,
            user=self.volume.user or "" if self.volume else "",
            person=person,
            creates=departure(Ids(person.uid, person.gid), idmap) if person and origin else None,
            why=reason_for(action.mount, self._lines) if action.mount else None,
            verdict=verdict,
            notes=(*action.notes, *asked.unseen, *self._notes),
        )

    @cached_property
    def _idmap(self) -> tuple[Idmapping | None, Origin | None]:
        """What the live mount has, else what it would have; who says so, None where nobody can."""
        old = self._action.old
        if old and (mount := self._mounts.get(old.id)):
            self._ours = {old.id, *old.submounts}
            if self._tells_idmaps:
                return mount.idmap, "kernel"
            for each in self._ours & self._mounts.keys():
                self._mounts[each] = self._mounts[each]._replace(idmap=old.idmap)
            return old.idmap, "record"
        if self._action.mount:
            return self._action.mount.idmap, "manifest"
        return None, None

    def _patiently(
        self, look: Callable[[], _Answer], otherwise: _Answer, *, is_by_child: bool = False
    ) -> _Answer:
        """What a look answers, or something else where it doesn't return.

        Another process may take it, and what it learned is in its answer.
        """
        looker = Looker[None, tuple[_Answer, _Learned]](
            Patience(),
            lambda _: (look(), _Learned(self._accounts, self._notes, self._ours)),
            lambda _, __: (otherwise, _Learned(self._accounts, self._notes, self._ours)),
            key=lambda _: None,
            is_by_child=is_by_child,
        )
        ((found, learned),) = looker.look_at([None])
        self._accounts, self._notes, self._ours = learned
        return found

    def _asked(self, spec: str | None) -> Asked:
        accounts = self._accounts
        try:
            _ = accounts.passwd, accounts.group
        except VolumeError as error:
            said = error.fault.message
        except OSError as error:
            said = f"{error.filename or accounts.root}: {error.strerror}"
        else:
            return asked_about(spec, self.volume, accounts)
        return Asked(None, None, None, (f"no names and users: {said}",))

    def _name(self, ids: Ids) -> str:
        return self._accounts.name_of(ids) if self._accounts.is_read else ""

    def _people(self, asked: Asked) -> list[tuple[Kind, Ids]]:
        """Whose ids are told of first, as stored."""
        known = self._action.mount or self._action.old
        people: list[tuple[Kind, Ids]] = [("owner", known.owner)] if known else []
        if user := asked.user:
            people.append(("user", Ids(user.uid, ROOT if user.gid is None else user.gid)))
        if person := asked.person:
            people.append(("asker", Ids(person.uid, person.gid)))
        people.append(("root", Ids(ROOT, ROOT)))
        return people

    def _verdict(self, place: str, asked: Asked) -> Verdict:
        """The way to the place, as it is; of what isn't mounted, the way to its target."""
        target = self._action.target
        route = self._walk(place if self._ours else target, asked)
        if not self._ours:
            self._notes.append("it isn't mounted, so only the way to its target was asked for")
            route = route._replace(missing=())  # a pass makes it
        judge = Judge(asked.person, self._of_mount, is_root=can_act_as_others())
        verdict = judge.judge(route)
        there = {each.found.mount for each in route.steps if each.path == target}
        if not there & self._ours:
            verdict = verdict.on_the_way()
            if there and self._ours:
                self._notes.append(f"what is at {target} now is another mount")
        self._tell_of_server(verdict)
        self._tell_of_end(route)
        return verdict

    def _walk(self, place: str, asked: Asked) -> Route:
        name = asked.person.name if asked.person else ""
        try:
            if asked.how == "as-ourselves":
                return walk(place, Ourselves())
            if asked.how and asked.person:
                with Deputy(asked.person) as deputy:
                    return walk(place, deputy)
        except OSError as error:  # in a user namespace some ids and groups can't be had
            self._notes.append(f"the kernel can't be asked as {name}: {error.strerror}")
        return walk(place, None)

    @cached_property
    def _share(self) -> Share:
        return share_of(self._action, self.volume, self._idmap[0], self._lines)

    def _of_mount(self, number: int) -> tuple[ObservedMount | None, Share | None]:
        mount = self._mounts.get(number)
        return mount, self._share if number in self._ours else None

    def _tell_of_end(self, route: Route) -> None:
        end, target = route.end, self._action.target
        if self._ours and not f"{end.path}/".startswith(f"{target}/") and not route.error:
            if any(each.path == target for each in route.crossed):
                self._notes.append(f"a link leads out of the volume, to {end.path}")
        elif end.found.mode & stat.S_ISGID and stat.S_ISDIR(end.found.mode):
            self._notes.append(f"{end.path} is setgid: what is created there gets its group")

    def _tell_of_server(self, verdict: Verdict) -> None:
        numbers = {each.found.mount for each in verdict.steps} & self._ours
        for fs_type in {self._mounts[each].fs_type for each in numbers if each in self._mounts}:
            if has_server(fs_type):
                self._notes.append(
                    f"{fs_type} asks a server, which may refuse what this kernel allows: there it"
                    " is the ids as stored that count"
                )
