"""The raw mounts of volumes with a `type`: one for each filesystem, below the state directory.

The folder is root's alone, so nobody reaches a filesystem but through the volumes cloned from it.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from mountd.core.actions import FilesystemAction
from mountd.core.filesystems import Raw, departure
from mountd.core.model import Fault, Filesystem, Volume
from mountd.core.mounts import Base, ObservedMount
from mountd.core.nesting import paths_in
from mountd.core.targets import Places
from mountd.core.words import faults, filesystem_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.attach import move
from mountd.kernel.cause import fault_of
from mountd.kernel.clone import Tree
from mountd.kernel.detach import unmount
from mountd.kernel.errands import Errands
from mountd.kernel.files import st_dev, statx
from mountd.kernel.filesystem import Made, device_of, make_filesystem, try_options
from mountd.kernel.making import made
from mountd.kernel.observe import is_at, observe_mount, options_in_force, top_at
from mountd.kernel.paths import open_path, spot
from mountd.kernel.patience import PATIENCE, Looker, Patience
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC
from mountd.kernel.trusted import ROOT
from mountd.reconcile.record import Record


def raw_mounts(
    volumes: Iterable[Volume],
    mounts: Mapping[int, ObservedMount],
    record: Record,
    patience: Patience,
) -> dict[Filesystem, Raw]:
    """The raw mount of each filesystem that these volumes name, as it is now.

    By the record it is found wherever the state directory was moved to.
    """
    targets: dict[Filesystem, list[str]] = {}
    for volume in volumes:
        if volume.filesystem:
            targets.setdefault(volume.filesystem, []).append(volume.target)
    if not targets:
        return {}
    grounds = _grounds(targets, mounts, patience)
    points = {mount.point for mount in mounts.values()}
    found: dict[Filesystem, Raw] = {}
    for each in targets:
        ground = grounds.get(each, ())
        if isinstance(ground, Fault):
            found[each] = Raw(each.name(), fault=ground)
            continue
        name = each.name(ground)
        base = record.bases.get(name)
        mount = mounts.get(base.id) if base else None
        if mount and os.path.basename(mount.point) != name:  # its id was used again
            mount = None
        path = mount.point if mount else _path(record.state_dir, name)
        if path not in points:
            found[each] = Raw(name)
        elif _leads_to(path, mount):
            found[each] = Raw(name, path, ignored=base.ignored if base else ())
        else:  # another one would hide what lies on a tmpfs
            cover = _cover(path, mounts)
            fault = filesystem_faults.covered_filesystem(each.type, each.source, path, cover)
            found[each] = Raw(name, fault=fault)
    return found


def _grounds(
    targets: Mapping[Filesystem, Collection[str]],
    mounts: Mapping[int, ObservedMount],
    patience: Patience,
) -> dict[Filesystem, tuple[str, ...] | Fault]:
    """What the paths in options lead to, of the filesystems whose options have any.

    What is built on one folder isn't what is built on another, or on the same as another idmapping
    shows it. Where a path leads to the filesystem's own volumes, that is left out.
    """
    built = [each for each in targets if any(paths_in(each.options))]

    def look(filesystem: Filesystem) -> tuple[str, ...] | Fault:
        paths = paths_in(filesystem.options)
        own = Places(targets[filesystem])
        return tuple(_ground(each, mounts) for each in paths if not any(own.from_(each)))

    looker = Looker[Filesystem, tuple[str, ...] | Fault](
        patience, look, _give_up, key=lambda it: it
    )
    return dict(zip(built, looker.look_at(built), strict=True))


def _ground(path: str, mounts: Mapping[int, ObservedMount]) -> str:
    """What a folder is, and through which idmapping it is seen; nothing where there is none."""
    try:
        folder, _ = open_path(path)
    except OSError:
        return ""
    with folder:
        found = statx(folder, flags=AT_STATX_DONT_SYNC)
    mount = mounts.get(found.mount)
    is_untold = mount and mount.is_idmapped and mount.idmap is None
    seen_through = found.mount if is_untold else mount and mount.idmap
    return f"{found.device}:{found.inode} {seen_through or ''}"


def foreseen(
    found: Mapping[Filesystem, Raw], mounts: Mapping[int, ObservedMount], patience: Patience
) -> dict[Filesystem, Raw]:
    """The same, and of those that aren't mounted, what can be known to come of it without."""
    missing = [it for it, raw in found.items() if raw.path is None and raw.fault is None]
    if not missing:
        return {**found}
    read_only = {each.device: each.is_fs_read_only for each in mounts.values()}

    def look(filesystem: Filesystem) -> Fault | tuple[str, ...]:
        fs_type, source, options, _ = filesystem
        try:
            device = device_of(fs_type, source)
            if not any(paths_in(options)):  # which a pass may have to mount first
                try_options(fs_type, options)
        except (VolumeError, OSError) as error:
            return fault_of(error, f"mount the {fs_type} of {source}")
        if device is None or device not in read_only:
            return ()
        if read_only[device] != ("ro" in options):
            return filesystem_faults.mounted_otherwise(source, is_read_only=read_only[device])
        return _ignored(options, device)

    looker = Looker[Filesystem, Fault | tuple[str, ...]](
        patience, look, _give_up, key=lambda it: it
    )
    answers = dict(zip(missing, looker.look_at(missing), strict=True))
    return {
        filesystem: raw._replace(fault=answer)
        if isinstance(answer := answers.get(filesystem, ()), Fault)
        else raw._replace(ignored=answer or raw.ignored)
        for filesystem, raw in found.items()
    }


def _ignored(options: Iterable[str], device: int) -> tuple[str, ...]:
    """The keys of those options that a mounted device doesn't tell to be in force."""
    in_force = options_in_force(device)
    return tuple(each.partition("=")[0] for each in options if each not in in_force)


def _cover(path: str, mounts: Mapping[int, ObservedMount]) -> str:
    """Where the mount is that lies over a path: the one that its folders lead to."""
    while True:
        path = os.path.dirname(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            mount = mounts.get(statx(None, path, flags=AT_STATX_DONT_SYNC).mount)
            return mount.point if mount else path


def _leads_to(path: str, mount: ObservedMount | None) -> bool:
    """Whether this mount, or any if it isn't known, is at a path, as far as we may look."""
    try:
        return is_at(path, mount.id) if mount else top_at(path) is not None
    except PermissionError:
        return True


def enter_known(found: Mapping[Filesystem, Raw], record: Record) -> None:
    """Enter in the record what is mounted: it is known by its name, record or not."""
    for filesystem, raw in found.items():
        if raw.path and (top := top_at(raw.path)):
            record.add_base(_base(top.id, raw.name, filesystem, raw.ignored))


def mount_filesystems(
    missing: Mapping[Filesystem, Raw], record: Record, patience: Patience
) -> dict[Filesystem, Fault]:
    """Mount these; why each can't be that isn't mounted then."""
    looker = Looker[Filesystem, Made | Fault](patience, _make, _give_up, key=lambda it: it)
    answers = zip(missing.items(), looker.look_at([*missing]), strict=True)
    faults = {
        filesystem: answer
        if isinstance(answer, Fault)
        else _attach(answer, filesystem, raw.name, record)
        for (filesystem, raw), answer in answers
    }
    return {filesystem: fault for filesystem, fault in faults.items() if fault}


def take_off_unused(
    used: Iterable[str], record: Record, patience: Patience
) -> tuple[FilesystemAction, ...]:
    """Take off all but these, and what a mount on record needs; what became of each."""
    used = {*used}
    used |= {each.filesystem for each in record.managed.values()}
    done = []
    errands = Errands(patience)
    for base in [*record.bases.values()]:
        if base.name in used:
            continue
        action = departure(base)
        path = _path(record.state_dir, base.name)
        try:
            with suppress(FileNotFoundError):
                path = observe_mount(base.id).point
            with errands.of(path), spot(path) as found:
                unmount(found, base.id)
                with suppress(OSError):
                    os.rmdir(base.name, dir_fd=found.folder.number)
        except (VolumeError, OSError) as error:
            fault = fault_of(error, f"unmount {path}")
            done.append(action._replace(state=fault.state, fault=fault))
        else:
            record.remove_base(base.name)
            done.append(action._replace(state="unmounted"))
    with suppress(OSError):
        record.write()
    return tuple(done)


def _make(filesystem: Filesystem) -> Made | Fault:
    try:
        return make_filesystem(filesystem.type, filesystem.source, filesystem.options)
    except (VolumeError, OSError) as error:
        return fault_of(error, f"mount the {filesystem.type} of {filesystem.source}")


def _give_up(filesystem: Filesystem, error: OSError) -> Fault:
    fs_type, source, *_ = filesystem
    if isinstance(error, TimeoutError):
        return filesystem_faults.filesystem_not_answering(fs_type, source, PATIENCE)
    return fault_of(error, f"mount the {fs_type} of {source}", (source, f"the {fs_type} of it"))


def _attach(new: Made, filesystem: Filesystem, name: str, record: Record) -> Fault | None:
    """Put it below the state directory; its id is on record before."""
    path = _path(record.state_dir, name)
    found = statx(new.mount, flags=AT_STATX_DONT_SYNC)
    ignored: tuple[str, ...] = ()
    try:
        with new.mount:
            record.add_base(_base(found.mount, name, filesystem))
            record.write()
            with made(os.path.dirname(path), "folder") as folder:
                if folder.there and folder.there.uid != ROOT:  # root's link may lead anywhere
                    return faults.unsafe_file(f"{folder.whole_path} isn't root's")
                os.chmod(folder.name, 0o700, dir_fd=folder.folder.number)
            with made(path, "folder") as place:
                move(Tree(new.mount, found.mount), place)
            if new.is_shared and (ignored := _ignored(filesystem.options, st_dev(found.device))):
                record.add_base(_base(found.mount, name, filesystem, ignored))
    except (VolumeError, OSError) as error:
        return fault_of(error, f"attach the {filesystem.type} of {filesystem.source}")
    return None


def _base(mount_id: int, name: str, filesystem: Filesystem, ignored: tuple[str, ...] = ()) -> Base:
    return Base(mount_id, name, filesystem.type, filesystem.source, ignored)


def _path(state_dir: str, name: str) -> str:
    return f"{os.path.realpath(f'{state_dir}/fs')}/{name}"
