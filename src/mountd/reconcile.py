"""One pass: manifest → desired → observed → plan → apply → report."""

import fcntl
import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mountd.apply import Applier
from mountd.core.model import Action, Desired, Fault, Filesystem, Observed, ObservedMount, Outcome
from mountd.core.order import Progress
from mountd.core.plan import departures, plan
from mountd.core.targets import with_folders_above
from mountd.filesystems import mount_filesystems, mounted_filesystems, take_off_unused
from mountd.kernel.observe import observe
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.probe import has_beneath, has_open_tree_attr
from mountd.manifest.layers import find_layers, manifest_id
from mountd.manifest.load import Manifest, load_manifest
from mountd.manifest.problem import ManifestError
from mountd.namespaces import Namespaces, Prober
from mountd.reading import read_manifest
from mountd.record import Record, locked_record, read_record
from mountd.resolve import Context, Resolver


class Settings(NamedTuple):
    """Where a pass finds what it needs, as absolute paths; seconds to wait for another pass.

    `manifest` is a file; None: the search path.
    """

    manifest: str | None
    state_dir: str
    wait: float


class Pass(NamedTuple):
    """What a pass saw and did. A dry one's outcomes are those that a pass would begin from."""

    files: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    is_dry: bool
    warnings: tuple[str, ...] = ()


class UnknownVolumeError(Exception):
    """Names that are no volumes, and those that are."""

    def __init__(self, unknown: list[str], known: list[str]) -> None:
        super().__init__(*unknown)
        self.unknown = unknown
        self.known = known


def reconcile(
    settings: Settings,
    on_plan: Callable[[list[Action]], None],
    on_outcome: Callable[[Outcome], None],
) -> Pass:
    """Make the mounts what the manifest says.

    Raises ManifestError, LockedError or StateError; then nothing was changed.
    """
    manifest = _load(settings, is_acting=True)
    with locked_record(settings.state_dir, settings.wait) as record, Namespaces() as namespaces:
        if record.has_waited:  # while the other pass ran, the manifest may have been edited
            manifest = _load(settings, is_acting=True)
        warnings = manifest.warnings + record.warnings
        look = _Look(settings, manifest, record, namespaces, is_acting=True)
        observed = look.observe()
        record.follow(observed.mounts)
        look.mount_filesystems(observed.mounts)
        outcomes = _converge(look, on_plan, on_outcome)
        if manifest.is_whole:
            warnings += take_off_unused(manifest.volumes, settings.state_dir, record)
    return Pass(manifest.files, outcomes, False, warnings)


def _converge(
    look: "_Look",
    on_plan: Callable[[list[Action]], None],
    on_outcome: Callable[[Outcome], None],
) -> tuple[Outcome, ...]:
    """Plan and apply, in rounds: what needs another volume in place is looked at once it is."""
    done: dict[str, Outcome] = {}
    departed: list[Outcome] = []
    desired: dict[str, Desired] = {}
    actions: list[Action] = []
    while True:
        observed = look.observe()
        applier = look.applier(observed)
        with look.resolver(observed) as resolver:
            waiting = [each for each in look.manifest.volumes if each.name not in done]
            desired |= {each.volume.name: each for each in resolver.resolve(waiting)}
            seen = observed._replace(tops=resolver.tops)
            stuck = {each.action.old.id for each in departed if each.fault and each.action.old}
            faulty = {name: each.fault for name, each in done.items()}
            progress = Progress(faulty, frozenset(stuck), look.manifest.is_whole)
            is_first = not actions
            actions = look.plan([*desired.values()], seen, progress)
            if is_first:
                on_plan(actions)
                look.judge_record(actions)
                look.record.forget_gone(observed.mounts)
            ready = [each for each in actions if not each.after]
            assert ready or not actions, "volumes that wait for each other are in a circle"
            resolver.keep_sources({each.volume for each in ready if each.mount})
            for outcome in applier.apply(ready, resolver.sources):
                on_outcome(outcome)
                if outcome.action.verb == "unmount":
                    departed.append(outcome)
                else:
                    done[outcome.action.volume] = outcome
        if len(ready) == len(actions):
            return (*(done[each.name] for each in look.manifest.volumes), *departed)


def preview(settings: Settings) -> Pass:
    """What `reconcile` would do. It needs no privilege, takes no lock and writes nothing."""
    manifest = _load(settings, is_acting=False)
    record = read_record(settings.state_dir)
    with Namespaces() as namespaces:
        look = _Look(settings, manifest, record, namespaces, is_acting=False)
        observed = look.observe()
        record.follow(observed.mounts)
        with look.resolver(observed) as resolver:
            desired = resolver.resolve(manifest.volumes)
            seen = observed._replace(tops=resolver.tops)
            actions = look.plan(desired, seen, Progress(removes=manifest.is_whole))
            warnings = manifest.warnings + resolver.warnings + record.warnings
    outcomes = tuple(Outcome(action, action.state, action.fault) for action in actions)
    return Pass(manifest.files, outcomes, True, warnings)


def unmount(
    settings: Settings, names: Sequence[str], on_outcome: Callable[[Outcome], None]
) -> Pass:
    """Take these volumes' mounts off, or all of this manifest's, by the record.

    Raises UnknownVolumeError, LockedError or StateError.
    """
    manifest = manifest_id(settings.manifest)
    with locked_record(settings.state_dir, settings.wait) as record, Namespaces() as namespaces:
        observed = observe()
        record.follow(observed.mounts)
        ours = [each for each in record.managed.values() if each.manifest == manifest]
        if unknown := set(names) - {each.volume for each in ours}:
            _refuse_unknown(unknown, {each.volume for each in ours}, settings)
        warnings = record.warnings
        record.forget_gone(observed.mounts)
        chosen = {each.id for each in ours if each.volume in names or not names}
        actions = departures(record.managed.values(), observed, chosen)
        applier = Applier(record, manifest, observed, namespaces)
        done = _each(applier.apply(actions, {}), on_outcome)
        warnings += take_off_unused((), settings.state_dir, record)
    return Pass((manifest,), done, False, warnings)


class _Look:
    """What the rounds of one pass have in common."""

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        record: Record,
        namespaces: Namespaces,
        *,
        is_acting: bool,
    ) -> None:
        self.manifest = manifest
        self._state_dir = settings.state_dir
        self.record = record
        self._namespaces = namespaces
        self._is_acting = is_acting
        is_privileged = not missing_capabilities(["CAP_SYS_ADMIN"])
        self._is_privileged = is_privileged
        self._prober = Prober(namespaces, is_privileged=is_privileged)
        self._reserved = _reserved(settings)
        self._bases: dict[Filesystem, str | Fault | None] = {}
        self._most_sources = _make_room_for_descriptors(len(manifest.volumes))

    def observe(self) -> Observed:
        """The mounts that there are, and what can be done about them."""
        observed = observe()
        if not self._is_acting:
            volumes = self.manifest.volumes
            self._bases = mounted_filesystems(volumes, observed.mounts, self._state_dir)
        return observed._replace(can_remap=has_open_tree_attr(), can_go_beneath=has_beneath())

    def mount_filesystems(self, mounts: Mapping[int, ObservedMount]) -> None:
        """Have what volumes with a `type` are clones of."""
        volumes = self.manifest.volumes
        self._bases = mount_filesystems(volumes, mounts, self._state_dir, self.record)

    def resolver(self, observed: Observed) -> Resolver:
        """Looks at volumes, as the machine is now."""
        context = Context(
            self._reserved,
            observed,
            self.record.managed,
            self.record.is_lost,
            self._bases,
            self._prober,
            self._is_privileged,
            self._is_acting,
            self._most_sources,
        )
        return Resolver(context)

    def plan(
        self, desired: Sequence[Desired], observed: Observed, progress: Progress
    ) -> list[Action]:
        """The plan for volumes that have been looked at."""
        record = self.record.managed.values()
        return plan(desired, observed, record, self.manifest.id, progress)

    def judge_record(self, actions: Sequence[Action]) -> None:
        """A record that was lost stays so while what may be ours lies on a source in place."""
        faults = [each.fault for each in actions if each.source == each.target]
        self.record.is_lost &= any(each and each.code == "foreign-mount" for each in faults)

    def applier(self, observed: Observed) -> Applier:
        """Carries actions out, and keeps the record."""
        return Applier(self.record, self.manifest.id, observed, self._namespaces)


def _refuse_unknown(names: set[str], recorded: set[str], settings: Settings) -> None:
    """What isn't mounted may be unmounted; what isn't in the manifest either is a typo."""
    known = set(recorded)
    with suppress(ManifestError):  # unmounting goes by the record, also with a broken manifest
        known |= {volume.name for volume in _load(settings, is_acting=False).volumes}
    if names - known:
        raise UnknownVolumeError(sorted(names - known), sorted(known))


def _load(settings: Settings, *, is_acting: bool) -> Manifest:
    layers, reserved = find_layers(settings.manifest), _reserved(settings)
    return load_manifest(layers, read_manifest, reserved, is_acting=is_acting)


def _reserved(settings: Settings) -> dict[str, str]:
    """What no target may cover, wherever links lead to it: what we live on, and a merged /usr's."""
    reserved: dict[str, str] = {}
    for path, what in (
        *((each, "the manifest") for each in find_layers(settings.manifest).places),
        (settings.state_dir, "the state directory"),
        *((f"/{name}", f"where /{name} leads") for name in ("bin", "sbin", "lib", "lib64")),
    ):
        reserved |= {path: what, os.path.realpath(path): what}
    return with_folders_above(reserved)


def _each(
    outcomes: Iterable[Outcome], on_outcome: Callable[[Outcome], None]
) -> tuple[Outcome, ...]:
    done = []
    for outcome in outcomes:
        on_outcome(outcome)
        done.append(outcome)
    return tuple(done)


def _make_room_for_descriptors(volumes: int) -> int:
    """How many sources may be held open; the usual soft limit of 1,024 in all is raised.

    The kernel's table of them grows here, at once: in a process with threads each growth waits for
    an RCU grace period (fs/file.c), which at 1,000 volumes was a third of the pass.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    highest = min(2 * volumes + 64, hard - 1)
    os.close(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, highest))
    return hard // 4
