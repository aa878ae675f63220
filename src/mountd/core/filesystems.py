"""The raw mounts that volumes with a `type` are clones of: which are missing, and which can go."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mountd.core.actions import Action, FilesystemAction
from mountd.core.model import IN_MEMORY, Fault, Filesystem, Volume
from mountd.core.mounts import Base, Managed
from mountd.core.named_tuple import NamedTuple
from mountd.core.words import filesystem_faults


class Raw(NamedTuple):
    """The raw mount that a filesystem has, or would have."""

    name: str
    """Below the state directory."""
    path: str | None = None
    """Where it is mounted; None: it isn't, as far as is known."""
    fault: Fault | None = None
    """Why it can't be mounted, or be reached."""
    ignored: tuple[str, ...] = ()
    """The keys of those of its options that are not, or won't be, in force."""


Bases = Mapping[Filesystem, Raw]


def plan_filesystems(
    volumes: Iterable[Volume],
    actions: Sequence[Action],
    found: Bases,
    recorded: Collection[Base],
    managed: Iterable[Managed],
    manifest: str,
    *,
    removes: bool,
) -> list[FilesystemAction]:
    """A step for each filesystem that these volumes name, then for each that nothing needs.

    `actions` are those planned for the volumes. A filesystem is replaced where the mount at a
    volume's target is a clone of another one, which leaves. One that none of its volumes can be
    mounted from, because each has a fault already, isn't mounted. `removes`: False where only
    some volumes are known, so that nothing leaves.
    """
    wanted: dict[Filesystem, list[str]] = {}
    for volume in volumes:
        if volume.filesystem:
            wanted.setdefault(volume.filesystem, []).append(volume.name)
    if not (wanted or recorded):
        return []
    leaving: dict[str, Base] = {}
    if removes:
        names = {found[each].name for each in wanted}
        leaving = {it.name: it for it in _leaving(names, actions, recorded, managed, manifest)}
    planned = {each.volume: each for each in actions if not each.is_departure}
    steps: list[FilesystemAction] = []
    for filesystem, volumes_of_it in wanted.items():
        its = [planned[name] for name in volumes_of_it if name in planned]
        old = {each.old.filesystem for each in its if each.old} & leaving.keys()
        replaced = [leaving[name] for name in sorted(old)]
        steps.append(_step(filesystem, volumes_of_it, found[filesystem], its, replaced))
        if steps[-1].verb == "replace":
            for each in replaced:
                del leaving[each.name]
    return steps + [departure(each) for each in leaving.values()]


def departure(base: Base) -> FilesystemAction:
    """The step that takes a raw mount off which nothing needs any more."""
    return FilesystemAction(
        base.name, base.type, base.source, (), (), "unmount", "mounted",
        notes=_lost([base]),
    )  # fmt: skip


def _step(
    filesystem: Filesystem,
    names: Sequence[str],
    raw: Raw,
    actions: Collection[Action],
    replaced: Sequence[Base],
) -> FilesystemAction:
    fs_type, source, options, _ = filesystem
    notes: tuple[str, ...] = ()
    if raw.ignored:
        notes = (filesystem_faults.not_in_force(source, raw.ignored, names),)
    step = FilesystemAction(
        raw.name, fs_type, source, options, (*names,), "keep", "mounted", notes
    )  # fmt: skip
    after = _awaited(fs_type, actions)
    if raw.path:
        is_replaced = after and any(each.verb == "replace" for each in actions)
        return _put_off(step._replace(verb="replace"), after) if is_replaced else step
    faults = [each.fault for each in actions]
    fault = raw.fault or (faults[0] if faults and all(faults) else None)
    if fault:
        return step._replace(verb=None, state=fault.state, fault=fault)
    if replaced:
        step = step._replace(verb="replace", notes=(*_lost(replaced), *notes))
    else:
        step = step._replace(verb="mount", state="unmounted")
    return _put_off(step, after)


def _awaited(fs_type: str, actions: Collection[Action]) -> tuple[str, ...]:
    """What all volumes of a filesystem wait for, besides itself."""
    waits = [[it for it in each.after if it != mounting(fs_type)] for each in actions]
    return tuple(dict.fromkeys(it for each in waits for it in each)) if all(waits) else ()


def mounting(fs_type: str) -> str:
    """What is awaited where a volume's filesystem has yet to be mounted."""
    return f"{fs_type} is mounted"


def _put_off(step: FilesystemAction, after: tuple[str, ...]) -> FilesystemAction:
    notes = (*step.notes, *(f"after {each}" for each in after))
    return step._replace(after=after, notes=notes)


def _lost(leaving: Iterable[Base]) -> tuple[str, ...]:
    """What nobody can get back once these are unmounted."""
    types = dict.fromkeys(each.type for each in leaving)
    return tuple(f"the files of this {each} are lost" for each in types if each in IN_MEMORY)


def _leaving(
    wanted: Collection[str],
    actions: Iterable[Action],
    recorded: Iterable[Base],
    managed: Iterable[Managed],
    manifest: str,
) -> Iterator[Base]:
    """Those that no volume means, and no mount is a clone of that stays."""
    needed = {*wanted}
    going = {each.old.id for each in actions if each.old and each.verb in ("replace", "unmount")}
    needed |= {
        each.filesystem for each in managed if each.manifest != manifest or each.id not in going
    }
    return (each for each in recorded if each.name not in needed)
