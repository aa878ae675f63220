"""The raw mounts that volumes with a `type` are clones of: which are missing, and which can go."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mountd.core.actions import Action, FilesystemAction
from mountd.core.model import Fault, Filesystem, Volume
from mountd.core.mounts import Base, Managed

Bases = Mapping[Filesystem, str | Fault | None]
"""Where each filesystem is mounted, or why it can't be; None: it isn't mounted yet."""
_IN_MEMORY = ("tmpfs", "ramfs")


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
        leaving = {it.name: it for it in _leaving(wanted, actions, recorded, managed, manifest)}
    planned = {each.volume: each for each in actions if not each.is_departure}
    steps: list[FilesystemAction] = []
    for filesystem, names in wanted.items():
        its = [planned[name] for name in names if name in planned]
        old = {each.old.filesystem for each in its if each.old} & leaving.keys()
        replaced = [leaving[name] for name in sorted(old)]
        steps.append(_step(filesystem, names, found[filesystem], its, replaced))
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
    found: str | Fault | None,
    actions: Collection[Action],
    replaced: Sequence[Base],
) -> FilesystemAction:
    step = FilesystemAction(filesystem.name, *filesystem, (*names,), "keep", "mounted")
    if isinstance(found, str):
        return step
    faults = [each.fault for each in actions]
    fault = found or (faults[0] if faults and all(faults) else None)
    if fault:
        return step._replace(verb=None, state=fault.state, fault=fault)
    if replaced:
        return step._replace(verb="replace", notes=_lost(replaced))
    return step._replace(verb="mount", state="unmounted")


def _lost(leaving: Iterable[Base]) -> tuple[str, ...]:
    """What nobody can get back once these are unmounted."""
    types = dict.fromkeys(each.type for each in leaving)
    return tuple(f"the files of this {each} are lost" for each in types if each in _IN_MEMORY)


def _leaving(
    wanted: Collection[Filesystem],
    actions: Iterable[Action],
    recorded: Iterable[Base],
    managed: Iterable[Managed],
    manifest: str,
) -> Iterator[Base]:
    """Those that no volume names, and no mount is a clone of that stays."""
    needed = {each.name for each in wanted}
    going = {each.old.id for each in actions if each.old and each.verb in ("replace", "unmount")}
    needed |= {
        each.filesystem for each in managed if each.manifest != manifest or each.id not in going
    }
    return (each for each in recorded if each.name not in needed)
