"""Where a volume's files come from: the source opened, and the mount that is the source's own."""

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from errno import ENOENT, ENOTDIR

from mountd.core.filesystems import Bases
from mountd.core.idmapping import Idmapping
from mountd.core.model import Filesystem, Kind, User, Volume
from mountd.core.mounts import (
    AUTOMOUNT,
    TOO_DEEP,
    Adoptable,
    Managed,
    Observed,
    ObservedMount,
    forest_of,
    may_adopt,
    mount_at,
    parents_of,
    root_at,
)
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import is_within
from mountd.core.words import faults, filesystem_faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.files import Stat, statx
from mountd.kernel.observe import observe, observe_mount
from mountd.kernel.paths import open_below, open_path, path_as_far_as
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import UnsafeLinkError, kind_in_words


class Source(NamedTuple):
    """A source's root, opened, and all that there is to know of where it lies."""

    fd: Fd
    path: str
    found: Stat
    kind: Kind
    mount: ObservedMount
    """The mount that it was reached through."""
    idmap: Idmapping | None
    """What `mount` has."""
    own: ObservedMount
    """The mount below ours that really holds it; another than `mount` only in place."""
    through: int | None
    """In place, the id of our own mount, if the source was reached through it."""
    hides_another: bool
    """Whether that mount shows another folder than it covers."""
    submounts: Mapping[str, Sequence[ObservedMount]]
    """What is mounted below it, by the path from there, for a recursive volume.

    Those above come first. Several at one path cover each other; a clone of the source has them
    all.
    """
    filesystem: str
    """The name of the raw mount that it lies on, for a volume with a `type`."""
    asleep: tuple[str, ...] = ()
    """Where nothing is mounted on an automount below it, by the path from there."""

    @property
    def automounts(self) -> tuple[str, ...]:
        """Where automounts are below it, by the path from there."""
        below = self.submounts.items()
        return tuple(
            path for path, stack in below if any(each.fs_type == AUTOMOUNT for each in stack)
        )

    @property
    def mounts(self) -> Iterator[ObservedMount]:
        """All that it was seen to lie on."""
        yield self.mount
        for each in self.submounts.values():
            yield from each


class Sources:
    """Opens sources, as the machine is in this round of a pass."""

    def __init__(
        self,
        observed: Observed,
        managed: Mapping[int, Managed],
        bases: Bases,
        *,
        adoptable: Adoptable = frozenset(),
    ) -> None:
        self._observed = observed
        self._managed = managed
        self._bases = bases
        self._adoptable = adoptable
        mounts = observed.mounts.values()
        self._automounts = [each.point for each in mounts if each.fs_type == AUTOMOUNT]

    def is_for_later(self, filesystem: Filesystem) -> bool:
        """Whether a pass would have to mount this one first."""
        raw = self._bases[filesystem]
        return raw.path is None and raw.fault is None

    def sleeps(self, path: str) -> bool:
        """Whether a path without links leads to an automount on which nothing is mounted."""
        if not any(is_within(path, each) for each in self._automounts):
            return False
        there = mount_at(path, self._observed.mounts)
        return there is not None and there.fs_type == AUTOMOUNT

    def asleep(self, volume: Volume, ours: Managed) -> Source | None:
        """The source of what is mounted already, if automounts may sleep there: none is triggered.

        They unmount what nobody has used for a time, but our clone stays. If it was looked at there
        in each pass, that never came to its rest; and what they mount next may be another one.
        """
        path, points = ours.source, self._automounts
        if volume.type or path == ours.target:
            return None
        if self.sleeps(path) and path_as_far_as(points, volume.source) == path:
            return self._as_ours_has_it(volume, ours)
        if volume.recursive and any(is_within(each, path) for each in points):
            return self.open(volume, ours.target, wakes=False)
        return None

    def open(self, volume: Volume, target: str, *, wakes: bool = True) -> Source:
        """Open a volume's source. Raises VolumeError, or OSError as openat2(2) does.

        An automount there is triggered, and those below it where it `wakes` them.
        """
        filesystem = ""
        if volume.filesystem:
            filesystem = self._bases[volume.filesystem].name
            fd, path = self._in_filesystem(volume, volume.filesystem)
        else:
            fd, path = _opened(volume.source)
        try:
            found = statx(fd)
            mount = own = self._observed.mounts.get(found.mount) or observe_mount(found.mount)
            idmap, through = mount.idmap, None
            hides_another = False
            if path == target and found.is_mount_root:
                self._see_uncovered(mount, target)
            if path == target and found.is_mount_root and self._is_ours(mount, target):
                through = mount.id
                hides_another = not self._shows_what_it_covers(mount)
                while self._is_ours(own, target) and own.parent in self._observed.mounts:
                    own = self._observed.mounts[own.parent]
                if not self._observed.tells_idmaps:
                    managed = self._managed.get(mount.id)
                    idmap = managed.idmap if managed else None
            submounts: dict[str, list[ObservedMount]] = {}
            asleep: tuple[str, ...] = ()
            if volume.recursive:
                submounts, asleep = self._below(path, mount, wakes=wakes)
            kind = _kind(found, path)
        except BaseException:
            fd.close()
            raise
        return Source(
            fd,
            path,
            found,
            kind,
            mount,
            idmap,
            own,
            through,
            hides_another,
            submounts,
            filesystem,
            asleep,
        )

    def hides_its_source(self, source: Source, user: User | None) -> bool:
        """Whether our own mount, in place, must go before the source can be read.

        It must if it shows another folder than it covers, or has lost a submount that it would be
        asked for; and, before Linux 6.15 with the record lost, if its idmapping is unknown and the
        owner that it shows isn't the user.
        """
        found, mounts = source.found, self._observed.mounts
        managed = self._managed.get(source.through or 0)
        if source.hides_another or (managed and not mounts.keys() >= {*managed.submounts}):
            return True
        if not source.mount.is_idmapped or source.idmap or self._observed.tells_idmaps:
            return False
        if user and (found.uid, user.gid in (None, found.gid)) == (user.uid, True):
            return False
        if managed is None:
            raise VolumeError(
                mount_faults.foreign_mount(
                    source.path, source.mount, forest_of(mounts), self._managed, covers=False
                )
            )
        return True

    def _as_ours_has_it(self, volume: Volume, ours: Managed) -> Source:
        """The source as the mount at the target shows it."""
        path, mounts = ours.source, self._observed.mounts
        fd, _ = _opened(ours.target)
        try:
            found = statx(fd)
            if found.mount != ours.id:
                raise VolumeError(faults.moved_meanwhile(ours.target))
            mount = mounts[ours.id]
            idmap = mount.idmap if self._observed.tells_idmaps else ours.idmap
            is_remapped = volume.idmap != "never" and (volume.user or volume.idmap not in _AUTO)
            own = mount._replace(point=path, idmap=None if is_remapped else idmap)
            submounts = self._submounts(ours.target, mount, mounts) if volume.recursive else {}
            kind = _kind(found, path)
        except BaseException:
            fd.close()
            raise
        return Source(fd, path, found, kind, own, idmap, own, None, False, submounts, "")

    def _see_uncovered(self, top: ObservedMount, target: str) -> None:
        """What lies over our own mount is someone else's, and no source."""
        mounts = self._observed.mounts
        below = top
        while below.point == target and below.parent in mounts and not self._is_ours(top, target):
            below = mounts[below.parent]
            if below.id in self._managed and self._is_ours(below, target):
                raise VolumeError(
                    mount_faults.foreign_mount(
                        target, top, forest_of(mounts), self._managed, covers=True
                    )
                )

    def _below(
        self, path: str, mount: ObservedMount, *, wakes: bool
    ) -> tuple[dict[str, list[ObservedMount]], tuple[str, ...]]:
        """What is mounted below a source, and where an automount has nothing on it.

        `wakes`: they are triggered first, and what comes up on them.
        """
        mounts: Mapping[int, ObservedMount] = self._observed.mounts
        tried: set[str] = set()
        while True:
            below = self._submounts(path, mount, mounts)
            asleep = [each for each, there in below.items() if _is_asleep(there)]
            todo = [each for each in asleep if each not in tried] if wakes else []
            if not todo:
                return below, tuple(asleep)
            for each in todo:
                with suppress(VolumeError, OSError), open_path(f"{path.rstrip('/')}/{each}")[0]:
                    pass
            tried.update(todo)
            mounts = observe().mounts

    def _submounts(
        self, path: str, own: ObservedMount, mounts: Mapping[int, ObservedMount]
    ) -> dict[str, list[ObservedMount]]:
        root = path.rstrip("/")
        found: dict[str, list[ObservedMount]] = {}
        for mount in mounts.values():
            if mount.point.startswith(f"{root}/") and mount.point != path:
                above = (mount, *parents_of(mount.id, mounts))
                if any(each.id == own.id for each in above):
                    found.setdefault(mount.point[len(root) + 1 :], []).append(mount)
        return dict(sorted(found.items(), key=lambda it: (it[0].count("/"), it[0])))

    def _in_filesystem(self, volume: Volume, filesystem: Filesystem) -> tuple[Fd, str]:
        raw = self._bases[filesystem]
        if raw.fault:
            raise VolumeError(raw.fault)
        assert raw.path, "a filesystem that isn't mounted yet is for later"
        root, path = _opened(raw.path)
        if not volume.subdir:
            return root, path
        with root:
            try:
                return open_below(root, volume.subdir), f"{path}/{volume.subdir}"
            except UnsafeLinkError as error:
                raise VolumeError(filesystem_faults.link_in_subdir(volume.subdir)) from error
            except (FileNotFoundError, NotADirectoryError) as error:
                fault = filesystem_faults.no_subdir(
                    volume.subdir, filesystem.type, filesystem.source
                )
                raise VolumeError(fault) from error

    def _is_ours(self, mount: ObservedMount, target: str) -> bool:
        """Whether a mount at an in-place target is ours: it is on record.

        If the record was lost, it may also be ours because it shows the folder that it covers.
        """
        if mount.point != target:
            return False
        if managed := self._managed.get(mount.id):
            return managed.target == target
        return may_adopt(self._adoptable, target) and self._shows_what_it_covers(mount)

    def _shows_what_it_covers(self, mount: ObservedMount) -> bool:
        """Whether a mount's root is the very folder that it lies on, as ours in place is."""
        parent = self._observed.mounts.get(mount.parent)
        if parent is None or mount.root == TOO_DEEP:
            return False
        return (mount.device, mount.root) == (parent.device, root_at(parent, mount.point))


_AUTO = ("auto", "always")


def _is_asleep(stack: Sequence[ObservedMount]) -> bool:
    """Whether of the mounts at one place the topmost is an automount."""
    covered = {each.parent for each in stack}
    return any(each.fs_type == AUTOMOUNT and each.id not in covered for each in stack)


def _kind(found: Stat, path: str) -> Kind:
    if stat.S_ISDIR(found.mode):
        return "folder"
    if stat.S_ISREG(found.mode):
        return "file"
    raise VolumeError(faults.wrong_source_kind(path, kind_in_words(found.mode)))


def _opened(path: str) -> tuple[Fd, str]:
    try:
        return open_path(path)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            raise VolumeError(faults.no_source(path)) from error
        raise
