"""The raw mounts of volumes with a `type`: one for each filesystem, below the state directory.

The folder is root's alone, so nobody reaches a filesystem but through the volumes cloned from it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from mountd.core.actions import FilesystemAction
from mountd.core.filesystems import departure
from mountd.core.model import Fault, Filesystem, Volume
from mountd.core.mounts import Base, ObservedMount
from mountd.core.words import faults, filesystem_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel import attach as tree
from mountd.kernel.cause import fault_of
from mountd.kernel.clone import Tree
from mountd.kernel.errands import Errands
from mountd.kernel.files import statx
from mountd.kernel.filesystem import make_filesystem
from mountd.kernel.making import made
from mountd.kernel.observe import is_at, observe_mount, top_at
from mountd.kernel.paths import spot
from mountd.kernel.patience import PATIENCE, Looker, Patience
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd
from mountd.kernel.trusted import ROOT
from mountd.reconcile.record import Record


def place_of(filesystem: Filesystem, state_dir: str) -> str:
    """Where it is mounted, or would be, as the mount table has it."""
    return _path(state_dir, filesystem.name)


def mounted_filesystems(
    volumes: Iterable[Volume], mounts: Mapping[int, ObservedMount], record: Record
) -> dict[Filesystem, str | Fault | None]:
    """Where each that these volumes name is mounted, a fault where it is out of reach, else None.

    By the record it is found wherever the state directory was moved to.
    """
    wanted = dict.fromkeys(each.filesystem for each in volumes if each.filesystem)
    if not wanted:
        return {}
    points = {mount.point for mount in mounts.values()}
    found: dict[Filesystem, str | Fault | None] = {}
    for each in wanted:
        base = record.bases.get(each.name)
        mount = mounts.get(base.id) if base else None
        if mount and os.path.basename(mount.point) != each.name:  # its id was used again
            mount = None
        path = mount.point if mount else _path(record.state_dir, each.name)
        if path not in points:
            found[each] = None
        elif _leads_to(path, mount):
            found[each] = path
        else:  # another one would hide what lies on a tmpfs
            cover = _cover(path, mounts)
            found[each] = filesystem_faults.covered_filesystem(each.type, each.source, path, cover)
    return found


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


def enter_known(found: Mapping[Filesystem, str | Fault | None], record: Record) -> None:
    """Enter in the record what is mounted: it is known by its name, record or not."""
    for filesystem, path in found.items():
        if isinstance(path, str) and (top := top_at(path)):
            record.add_base(_base(top.id, filesystem))


def mount_filesystems(
    missing: Sequence[Filesystem], record: Record, patience: Patience
) -> dict[Filesystem, str | Fault]:
    """Mount these; where each is then, or why it can't be."""
    looker = Looker[Filesystem, Fd | Fault](patience, _make, _give_up, key=lambda it: it)
    made_ones = zip(missing, looker.look_at(missing), strict=True)
    return {
        filesystem: made_one
        if isinstance(made_one, Fault)
        else _attach(made_one, filesystem, record)
        for filesystem, made_one in made_ones
    }


def take_off_unused(
    volumes: Iterable[Volume], record: Record, patience: Patience
) -> tuple[FilesystemAction, ...]:
    """Take off what neither these volumes nor any mount on record needs; what became of each."""
    used = {each.filesystem.name for each in volumes if each.filesystem}
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
                tree.unmount(found, base.id)
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


def _make(filesystem: Filesystem) -> Fd | Fault:
    try:
        return make_filesystem(filesystem.type, filesystem.source, filesystem.options)
    except (VolumeError, OSError) as error:
        return fault_of(error, f"mount the {filesystem.type} of {filesystem.source}")


def _give_up(filesystem: Filesystem, error: OSError) -> Fault:
    fs_type, source, _ = filesystem
    if isinstance(error, TimeoutError):
        return filesystem_faults.filesystem_not_answering(fs_type, source, PATIENCE)
    return fault_of(error, f"mount the {fs_type} of {source}", (source, f"the {fs_type} of it"))


def _attach(mount: Fd, filesystem: Filesystem, record: Record) -> str | Fault:
    """Put it below the state directory; its id is on record before."""
    path = _path(record.state_dir, filesystem.name)
    mount_id = statx(mount, flags=AT_STATX_DONT_SYNC).mount
    try:
        with mount:
            record.add_base(_base(mount_id, filesystem))
            record.write()
            with made(os.path.dirname(path), "folder") as folder:
                if folder.there and folder.there.uid != ROOT:  # root's link may lead anywhere
                    return faults.unsafe_file(f"{folder.whole_path} isn't root's")
                os.chmod(folder.name, 0o700, dir_fd=folder.folder.number)
            with made(path, "folder") as found:
                tree.move(Tree(mount, mount_id), found)
    except (VolumeError, OSError) as error:
        return fault_of(error, f"attach the {filesystem.type} of {filesystem.source}")
    return path


def _base(mount_id: int, filesystem: Filesystem) -> Base:
    return Base(mount_id, filesystem.name, filesystem.type, filesystem.source)


def _path(state_dir: str, name: str) -> str:
    return f"{os.path.realpath(f'{state_dir}/fs')}/{name}"
