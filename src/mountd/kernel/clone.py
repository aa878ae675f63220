"""A detached clone of a source: idmapped, flagged and verified before anyone can see it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from errno import EINVAL

from mountd.core.desired import DesiredMount
from mountd.core.model import Flags, Ids, Volume
from mountd.core.mounts import AUTOMOUNT
from mountd.core.named_tuple import NamedTuple
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.files import look, register, statx
from mountd.kernel.locked import why_not_adjusted, why_not_cloned, why_not_flagged
from mountd.kernel.mount_api import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    mount_setattr,
    move_mount,
    open_tree,
    open_tree_attr,
)
from mountd.kernel.observe import ATIMES, observe_mount
from mountd.kernel.paths import open_below, spot_below
from mountd.kernel.probe import has_mount_setattr, why_absent
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

_ALL_FLAGS = (
    MOUNT_ATTR_RDONLY
    | MOUNT_ATTR_NOSUID
    | MOUNT_ATTR_NODEV
    | MOUNT_ATTR_NOEXEC
    | MOUNT_ATTR__ATIME  # all of it, or the kernel answers EINVAL
)


class Tree(NamedTuple):
    """A detached mount, with its submounts if it has any.

    The unique ids are those that they keep once attached.
    """

    fd: Fd
    id: int
    submounts: tuple[int, ...] = ()

    @property
    def is_removed(self) -> bool:
        """Whether the folder that it shows was removed since: then it can't be attached."""
        return os.readlink(f"/proc/self/fd/{self.fd.number}") == "/ (deleted)"


def build(source: Fd, wanted: DesiredMount, userns: Fd | None) -> Tree:
    """Clone the source with all that is wanted of it; its root shows the owner that it must.

    Raises VolumeError where the filesystem maps untruly, OSError otherwise.
    """
    pieces = [*wanted.submounts] if userns and wanted.automounts else []
    is_recursive = wanted.volume.recursive and not pieces
    tree = _clone(source, wanted, userns, is_recursive=is_recursive)
    try:
        try:
            idmapped = None if wanted.through_idmap else userns
            _set(tree, wanted, idmapped, is_recursive=is_recursive)
            for path in pieces:
                with suppress(FileNotFoundError, NotADirectoryError):
                    _add(tree, source, path, wanted, userns)
        except PermissionError as error:
            if fault := why_not_flagged(source, wanted):
                raise VolumeError(fault) from error
            raise
        found = statx(tree, flags=AT_STATX_DONT_SYNC)
        register(tree, found, wanted.fs_type)
        if (found.uid, found.gid) != wanted.choice.shown:
            shown = Ids(found.uid, found.gid)
            raise VolumeError(idmap_faults.idmap_untrue(wanted.fs_type, wanted.choice.shown, shown))
        submounts = tuple(_submounts(tree, wanted.submounts))
    except BaseException:
        tree.close()
        raise
    return Tree(tree, found.mount, submounts)


def _add(tree: Fd, source: Fd, path: str, wanted: DesiredMount, userns: Fd | None) -> None:
    """Put a clone of what is seen at a path below the source there (Linux 6.15; EINVAL before).

    That an automount below it is left out, which takes no idmapping, takes this piece by piece.
    """
    with open_below(source, path) as seen, spot_below(tree, wanted.target, path) as place:
        if observe_mount(statx(seen, flags=AT_STATX_DONT_SYNC).mount).fs_type == AUTOMOUNT:
            return
        said, unsaid = _said(wanted.volume)
        with open_tree(seen) as piece:
            mount_setattr(
                piece, set_=said | MOUNT_ATTR_IDMAP, clear=said | unsaid, propagation=MS_PRIVATE,
                userns=userns,
            )  # fmt: skip
            move_mount(piece, place.folder, place.name)


def _submounts(tree: Fd, paths: Iterable[str]) -> Iterator[int]:
    """Their ids, as far as they show: one may be covered, or have been left out as unbindable."""
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            found = look(tree, path)
            if found.is_mount_root:
                yield found.mount


def _clone(source: Fd, wanted: DesiredMount, userns: Fd | None, *, is_recursive: bool) -> Fd:
    """Clone the source; where it is idmapped, open_tree_attr(2) sets another map while cloning."""
    try:
        if wanted.through_idmap in (None, wanted.idmap):
            return open_tree(source, recursive=is_recursive)
        set_ = MOUNT_ATTR_IDMAP if userns else 0
        return open_tree_attr(
            source, set_=set_, clear=MOUNT_ATTR_IDMAP, userns=userns, recursive=is_recursive
        )
    except OSError as error:
        if error.errno != EINVAL:
            raise
        fault = why_not_cloned(source, wanted.source, recursive=is_recursive)
        raise VolumeError(fault) from error


def _set(tree: Fd, wanted: DesiredMount, userns: Fd | None, *, is_recursive: bool) -> None:
    if not has_mount_setattr():
        if wanted.volume.recursive and (fault := why_absent("mount_setattr", "recursive volumes")):
            raise VolumeError(fault)
        return  # the flags follow once it is attached
    bits = attributes(wanted.flags)
    idmap = MOUNT_ATTR_IDMAP if userns else 0
    if is_recursive:
        said, unsaid = _said(wanted.volume)
        mount_setattr(
            tree, set_=said | idmap, clear=said | unsaid, propagation=MS_PRIVATE,
            userns=userns, recursive=True,
        )  # fmt: skip
        idmap, userns = 0, None
    mount_setattr(
        tree,
        set_=bits | idmap,
        clear=_ALL_FLAGS,
        propagation=MS_PRIVATE,  # or it is a peer of the source's mount
        userns=userns,
    )


def flag(root: Fd, mount: int, wanted: DesiredMount) -> None:
    """Give our mount, or a clone of it, the flags that are wanted, all at once."""
    try:
        mount_setattr(root, set_=attributes(wanted.flags), clear=_ALL_FLAGS)
    except PermissionError as error:
        if fault := why_not_adjusted(mount, wanted):
            raise VolumeError(fault) from error
        raise


def _said(volume: Volume) -> tuple[int, int]:
    """The flags that a volume asks for, and those it forbids; the rest is as each source has it."""
    said = unsaid = 0
    for wish, bit in (
        (volume.read_only, MOUNT_ATTR_RDONLY),
        (volume.nosuid, MOUNT_ATTR_NOSUID),
        (volume.nodev, MOUNT_ATTR_NODEV),
        (volume.noexec, MOUNT_ATTR_NOEXEC),
    ):
        said |= bit if wish else 0
        unsaid |= bit if wish is False else 0
    if volume.atime:
        said |= ATIMES[volume.atime]
        unsaid |= MOUNT_ATTR__ATIME
    return said, unsaid


def attributes(flags: Flags) -> int:
    """The flags as MOUNT_ATTR_* bits."""
    return (
        MOUNT_ATTR_RDONLY * flags.read_only
        | MOUNT_ATTR_NOSUID * flags.nosuid
        | MOUNT_ATTR_NODEV * flags.nodev
        | MOUNT_ATTR_NOEXEC * flags.noexec
        | ATIMES[flags.atime]
    )
