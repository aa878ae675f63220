"""One pass: manifest → desired → observed → plan → apply → report."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from mountd.core.actions import Action, FilesystemAction, Outcome, Report
from mountd.core.desired import Desired
from mountd.core.leaving import departures
from mountd.core.model import Fault
from mountd.core.mounts import Observed
from mountd.core.named_tuple import NamedTuple
from mountd.core.order import Progress, as_one, is_half_done, is_told, never, see_progress
from mountd.core.targets import with_folders_above
from mountd.exits import ArgumentError
from mountd.kernel.errands import ask
from mountd.kernel.observe import observe
from mountd.kernel.paths import see
from mountd.kernel.patience import Patience
from mountd.kernel.served import NoChildError
from mountd.manifest.layers import SEARCH_PATH, Layers, find_layers, manifest_id, places_of
from mountd.manifest.load import Manifest, Reading, load_manifest
from mountd.manifest.problem import ManifestError, Problem
from mountd.reconcile.filesystems import take_off_unused
from mountd.reconcile.idmaps import Namespaces
from mountd.reconcile.reading import read_manifest, read_patiently, unanswered_file
from mountd.reconcile.record import Record, locked_record, read_record
from mountd.reconcile.stages import Pass
from mountd.reconcile.state import see_no_watch, state_folder

_P = ParamSpec("_P")
_T = TypeVar("_T")
OnPlan = Callable[[list[FilesystemAction], list[Action]], None]
OnOutcome = Callable[[Outcome], None]
OnWait = Callable[[str], None]
"""Is told, once, who is waited for."""


class Settings(NamedTuple):
    """Where a pass finds what it needs, as absolute paths."""

    manifest: str | None
    """A file; None: the search path."""
    state_dir: str


def reconcile(
    settings: Settings,
    on_plan: OnPlan,
    on_outcome: OnOutcome,
    *,
    wait: float = 0.0,
    on_wait: OnWait = lambda _: None,
) -> Report:
    """Make the mounts what the manifest says, after another pass has ended: `wait` seconds.

    Raises ManifestError, LockedError or StateError; then nothing was changed.
    """
    manifest = load(settings, is_acting=True)
    with locked_record(settings.state_dir, wait, on_wait=on_wait) as record:
        if record.has_waited:  # while the other pass ran, the manifest may have been edited
            manifest = load(settings, is_acting=True)
        return converge(manifest, record, Patience(), on_plan, on_outcome)


def converge(
    manifest: Manifest,
    record: Record,
    patience: Patience,
    on_plan: OnPlan,
    on_outcome: OnOutcome,
    *,
    observe: Callable[[], Observed] = observe,
    held: Mapping[str, Fault] = {},
) -> Report:
    """The pass itself, of the whole manifest or a part of it. Raises StoppedError.

    `observe` reads the mount table; `held` volumes are left as they are, and why.
    """
    with Namespaces() as namespaces:
        warnings = manifest.warnings + record.warnings
        this = Pass(
            manifest, record, namespaces, patience, is_acting=True, observe=observe, held=held
        )
        observed = this.observe()
        record.follow(observed.mounts)
        steps, outcomes = _converge(this, observed, on_plan, on_outcome)
        filesystems = this.finish_filesystems(steps)
    warnings += unmounted_in_vain(filesystems)
    return Report(manifest.files, outcomes, False, warnings, (*filesystems,))


def unmounted_in_vain(filesystems: Iterable[FilesystemAction]) -> tuple[str, ...]:
    """A sentence for each that nothing needs and that could not be unmounted."""
    return tuple(
        f"{each} stays, though nothing needs it: {each.fault.message}; the next pass tries again"
        for each in filesystems
        if each.verb == "unmount" and each.fault
    )


def _converge(
    this: Pass, observed: Observed, on_plan: OnPlan, on_outcome: OnOutcome
) -> tuple[list[FilesystemAction], tuple[Outcome, ...]]:
    """Plan and apply, in rounds: what needs another volume in place is looked at once it is.

    Returns the filesystems' steps as the first round planned them, and what became of volumes.
    """
    planned: list[FilesystemAction] = []
    done: dict[str, Outcome] = {}
    begun: dict[str, Outcome] = {}
    departed: list[Outcome] = []
    desired: dict[str, Desired] = {}
    actions: list[Action] = []
    while True:
        applier = this.applier(observed)
        with this.resolver(observed) as resolver:
            waiting = [each for each in this.manifest.volumes if each.name not in done]
            desired |= {each.volume.name: each for each in resolver.resolve(waiting)}
            gone = [each for each in departed if each.fault]
            gone += [each for each in done.values() if each.action.lazily]
            stuck = {
                old.id: each.fault
                for each in gone
                for old in (each.action.old, each.action.beneath)
                if old and each.fault
            }
            faulty = {name: each.fault for name, each in done.items()}
            progress = Progress(faulty, stuck)
            is_first = not actions
            actions = this.plan([*desired.values()], resolver, progress)
            steps = this.plan_filesystems(actions)
            if is_first:
                planned = steps
                on_plan(steps, actions)
                this.record.forget_gone(observed.mounts)
            this.judge_record(actions)
            if not this.mount_filesystems(steps):
                actions = see_progress(actions)
            ready = [each for each in actions if not each.after]
            resolver.keep_sources({each.volume for each in ready if each.mount})
            for outcome in applier.apply(ready, resolver.sources):
                name = outcome.action.volume
                if is_half_done(outcome):  # what it means now is for the next round to see
                    begun[name] = outcome
                    continue
                if outcome.action.is_departure:
                    departed.append(outcome)
                else:
                    outcome = done[name] = as_one(begun.get(name), outcome)  # noqa: PLW2901
                    if is_told(outcome, departed):
                        continue
                on_outcome(outcome)
        if all(each.name in done for each in this.manifest.volumes) and len(ready) == len(actions):
            staying = [done[each.name] for each in this.manifest.volumes]
            leaving = [each for each in departed if not is_told(each, staying)]
            return planned, (*staying, *leaving)
        observed = this.observe()


def preview(settings: Settings, manifest: Manifest | None = None) -> Report:
    """What `reconcile` would do. It needs no privilege, takes no lock and writes nothing."""
    manifest = manifest or load(settings, is_acting=False)
    record = read_record(settings.state_dir)
    with Namespaces() as namespaces:
        this = Pass(manifest, record, namespaces, Patience(), is_acting=False)
        observed = this.observe()
        record.follow(observed.mounts)
        with this.resolver(observed) as resolver:
            desired = resolver.resolve(manifest.volumes)
            actions = this.plan(desired, resolver, Progress())
            actions = this.foresee(desired, actions, resolver)
            filesystems = this.plan_filesystems(actions)
            warnings = manifest.warnings + resolver.warnings + record.warnings
    outcomes = tuple(map(Outcome.untouched, actions))
    return Report(manifest.files, outcomes, True, warnings, (*filesystems,))


def recorded(settings: Settings) -> Report:
    """What is mounted for a manifest that can't be had, by the record."""
    record = read_record(settings.state_dir)
    observed = observe()
    record.follow(observed.mounts)
    manifest = manifest_id(settings.manifest)
    ours = {each.id for each in record.managed.values() if each.manifest == manifest}
    actions = departures(record.managed.values(), observed, ours)
    stays = (Outcome(each._replace(verb="keep"), "mounted") for each in actions)
    return Report((manifest,), tuple(stays), True)


def unmount(
    settings: Settings,
    names: Sequence[str],
    on_outcome: OnOutcome,
    *,
    wait: float = 0.0,
    on_wait: OnWait = lambda _: None,
) -> Report:
    """Take these volumes' mounts off, or all of this manifest's, by the record.

    Raises ArgumentError, LockedError or StateError.
    """
    from mountd.reconcile.apply import Applier  # noqa: PLC0415 - no dry run needs it

    manifest = manifest_id(settings.manifest)
    with state_folder(settings.state_dir) as folder:
        see_no_watch(folder, settings.state_dir)
    with (
        locked_record(settings.state_dir, wait, on_wait=on_wait) as record,
        Namespaces() as namespaces,
    ):
        observed = observe()
        record.follow(observed.mounts)
        ours = [each for each in record.managed.values() if each.manifest == manifest]
        if unknown := set(names) - {each.volume for each in ours}:
            _refuse_unknown(unknown, {each.volume for each in ours}, settings)
        warnings = record.warnings
        record.forget_gone(observed.mounts)
        chosen = {each.id for each in ours if each.volume in names or not names}
        patience = Patience()
        done: list[Outcome] = []
        while actions := departures(record.managed.values(), observed, chosen):
            ready = [each for each in actions if not each.after]
            applier = Applier(record, manifest, observed, namespaces, patience)
            outcomes = _each(applier.apply(ready, {}), on_outcome)
            done += outcomes
            stuck = {each.action.target for each in outcomes if each.fault}
            waiting = [each for each in actions if each.after and each.target not in stuck]
            if all(each.fault for each in outcomes):
                done += _each((Outcome.untouched(never(it)) for it in waiting), on_outcome)
                break
            chosen = {each.old.id for each in waiting if each.old}
            observed = observe()
        filesystems = take_off_unused((), record, patience)
    warnings += unmounted_in_vain(filesystems)
    return Report((manifest,), tuple(done), False, warnings, filesystems)


def _refuse_unknown(names: set[str], recorded: set[str], settings: Settings) -> None:
    """What isn't mounted may be unmounted; what isn't in the manifest either is a typo."""
    known = set(recorded)
    with suppress(ManifestError):  # unmounting goes by the record, also with a broken manifest
        known |= {volume.name for volume in load(settings, is_acting=False).volumes}
    if names - known:
        raise unknown_volumes(names - known, known, settings)


def unknown_volumes(names: set[str], known: set[str], settings: Settings) -> ArgumentError:
    """Names that are no volumes, told with the nearest that is one, or with all."""
    from mountd.core.words.spelling import nearest  # noqa: PLC0415 - for this alone

    named, volumes = sorted(names), sorted(known)
    message = f"{manifest_id(settings.manifest)} has no volume "
    message += ", ".join(f"`{name}`" for name in named)
    if near := nearest(named[0], volumes):
        return ArgumentError(message, f"did you mean `{near}`?")
    more = ", …" if len(volumes) > 10 else ""
    listed = f"its volumes: {', '.join(volumes[:10])}{more}" if volumes else "it has none"
    return ArgumentError(message, listed)


def load(
    settings: Settings,
    *,
    is_acting: bool,
    layers: Layers | None = None,
    read: Callable[[str], Reading] = read_manifest,
) -> Manifest:
    """The manifest, of these layers if they are known. Raises ManifestError, and as `read` does."""
    layers = layers or layers_of(settings.manifest)
    reserved = _patiently(layers.id, _reserved, layers, settings.state_dir)
    reading = partial(read_patiently, read)
    return load_manifest(layers, reading, reserved, is_acting=is_acting)


def layers_of(manifest: str | None) -> Layers:
    """The files of a manifest. Raises ManifestError where a server keeps us from seeing them."""
    return _patiently(manifest or SEARCH_PATH[0], _layers_of, manifest)


def _layers_of(manifest: str | None) -> Layers:
    for place in places_of(manifest):
        see(place)
    return find_layers(manifest)


def _patiently(file: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return ask(function, *args, **kwargs)
    except (TimeoutError, NoChildError) as error:
        why = unanswered_file(error)
        raise ManifestError(
            [Problem(file, None, None, why.message, why.hint, is_silent=True)], (file,)
        ) from error


def _reserved(layers: Layers, state_dir: str) -> dict[str, str]:
    """What no target may cover, wherever links lead to it: what we live on, and a merged /usr's."""
    for place in (*layers.places, state_dir):
        see(place)
    reserved: dict[str, str] = {}
    for path, what in (
        *((each, "the manifest") for each in layers.places),
        (state_dir, "the state directory"),
        *((f"/{name}", f"where /{name} leads") for name in ("bin", "sbin", "lib", "lib64")),
    ):
        reserved |= {path: what, os.path.realpath(path): what}
    return with_folders_above(reserved)


def _each(outcomes: Iterable[Outcome], on_outcome: OnOutcome) -> tuple[Outcome, ...]:
    done = []
    for outcome in outcomes:
        on_outcome(outcome)
        done.append(outcome)
    return tuple(done)
