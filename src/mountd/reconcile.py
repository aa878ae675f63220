"""One pass: manifest → desired → observed → plan → apply → report."""

import fcntl
import os
import resource
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from mountd.apply import apply
from mountd.core.model import Action, Observed, Outcome
from mountd.core.plan import departures, plan
from mountd.core.targets import with_folders_above
from mountd.kernel.observe import observe
from mountd.manifest.load import Manifest, load_manifest
from mountd.manifest.problem import ManifestError
from mountd.reading import read_manifest
from mountd.record import Record, locked_record, read_record
from mountd.resolve import Resolver


class Settings(NamedTuple):
    """Where a pass finds what it needs, as absolute paths; seconds to wait for another pass."""

    manifest: str
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
    with locked_record(settings.state_dir, settings.wait) as record:
        if record.has_waited:  # while the other pass ran, the manifest may have been edited
            manifest = _load(settings, is_acting=True)
        warnings = manifest.warnings + record.warnings
        observed = observe()
        with _resolver(settings, manifest, observed, is_acting=True) as resolver:
            actions = _plan(manifest, resolver, observed, record)
            on_plan(actions)
            record.forget_gone(observed.mounts)
            tells_idmaps = observed.tells_idmaps
            outcomes = apply(
                actions, resolver.sources, record, manifest.file, tells_idmaps=tells_idmaps
            )
            done = _each(outcomes, on_outcome)
    return Pass((manifest.file,), done, False, warnings)


def preview(settings: Settings) -> Pass:
    """What `reconcile` would do. It needs no privilege, takes no lock and writes nothing."""
    manifest = _load(settings, is_acting=False)
    record = read_record(settings.state_dir)
    observed = observe()
    with _resolver(settings, manifest, observed, is_acting=False) as resolver:
        actions = _plan(manifest, resolver, observed, record)
        warnings = manifest.warnings + resolver.warnings + record.warnings
    outcomes = tuple(Outcome(action, action.state, action.fault) for action in actions)
    return Pass((manifest.file,), outcomes, True, warnings)


def unmount(
    settings: Settings, names: Sequence[str], on_outcome: Callable[[Outcome], None]
) -> Pass:
    """Take these volumes' mounts off, or all of this manifest's, by the record.

    Raises UnknownVolumeError, LockedError or StateError.
    """
    with locked_record(settings.state_dir, settings.wait) as record:
        ours = [each for each in record.managed.values() if each.manifest == settings.manifest]
        if unknown := set(names) - {each.volume for each in ours}:
            _refuse_unknown(unknown, {each.volume for each in ours}, settings)
        warnings = record.warnings
        observed = observe()
        record.forget_gone(observed.mounts)
        chosen = [each for each in ours if each.volume in names or not names]
        actions = departures(chosen, observed)
        tells_idmaps = observed.tells_idmaps
        outcomes = apply(actions, {}, record, settings.manifest, tells_idmaps=tells_idmaps)
        done = _each(outcomes, on_outcome)
    return Pass((settings.manifest,), done, False, warnings)


def _refuse_unknown(names: set[str], recorded: set[str], settings: Settings) -> None:
    """What isn't mounted may be unmounted; what isn't in the manifest either is a typo."""
    known = set(recorded)
    with suppress(ManifestError):  # unmounting goes by the record, also with a broken manifest
        known |= {volume.name for volume in _load(settings, is_acting=False).volumes}
    if names - known:
        raise UnknownVolumeError(sorted(names - known), sorted(known))


def _load(settings: Settings, *, is_acting: bool) -> Manifest:
    reserved = _reserved(settings)
    return load_manifest(settings.manifest, read_manifest, reserved, is_acting=is_acting)


def _resolver(
    settings: Settings, manifest: Manifest, observed: Observed, *, is_acting: bool
) -> Resolver:
    most = _make_room_for_descriptors(len(manifest.volumes))
    reserved = _reserved(settings)
    return Resolver(reserved, observed.mounts, is_acting=is_acting, most_sources=most)


def _plan(
    manifest: Manifest, resolver: Resolver, observed: Observed, record: Record
) -> list[Action]:
    desired = resolver.resolve(manifest.volumes)
    seen = observed._replace(tops=resolver.tops)
    return plan(desired, seen, record.managed.values(), manifest.file)


def _reserved(settings: Settings) -> dict[str, str]:
    """What no target may cover, wherever links lead to it: what we live on, and a merged /usr's."""
    reserved: dict[str, str] = {}
    for path, what in (
        (settings.manifest, "the manifest"),
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
