"""Volume → desired mount: the source opened, owner and user looked up, the idmapping chosen."""

import stat
from collections.abc import Mapping, Sequence
from errno import ENOENT, ENOTDIR
from typing import Self

from mountd.accounts import Accounts
from mountd.core import faults
from mountd.core.choice import ROOT, chosen_idmap, gives_root_away, shown_owner
from mountd.core.faults import VolumeError
from mountd.core.idmapping import Idmapping, is_whole
from mountd.core.model import (
    Desired,
    DesiredMount,
    Fault,
    Flags,
    Ids,
    Kind,
    ObservedMount,
    Top,
    Unready,
    User,
    Volume,
)
from mountd.core.targets import why_forbidden
from mountd.kernel.observe import observe_mount, top_at
from mountd.kernel.paths import (
    UnsafeLinkError,
    is_plain_folder,
    kind_in_words,
    open_path,
    spot,
)
from mountd.kernel.syscalls import Fd, Stat, statx
from mountd.patience import PATIENCE, Looker

_Answer = tuple[Desired, Fd | None]


class Resolver:
    """Works out desired mounts, and holds the sources it opened until the end of the `with`."""

    def __init__(
        self,
        reserved: dict[str, str],
        mounts: Mapping[int, ObservedMount],
        *,
        is_acting: bool,
        most_sources: int,
    ) -> None:
        """`reserved`: what no target may cover, by path; `is_acting`: mounts will follow.

        More than `most_sources` are not held: their volumes' are opened again when needed.
        """
        self._points = {mount.point for mount in mounts.values()}
        self._most_sources = most_sources
        self._reserved = reserved
        self._is_acting = is_acting
        self._accounts: dict[str, Accounts] = {}
        self._users: dict[tuple[str, str], User] = {}
        self._mounts: dict[int, ObservedMount] = {}
        self.tops: dict[str, Top] = {}
        """What is on top at each target on which something is mounted."""
        self.sources: dict[str, Fd] = {}
        """The source of each volume that means a mount, by its name; who takes one closes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources.values():
            source.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Who but root could have written the accounts that were looked up."""
        return tuple(each for accounts in self._accounts.values() for each in accounts.warnings)

    def resolve(self, volumes: Sequence[Volume]) -> list[Desired]:
        """What each volume means now. A source or target that hangs costs its own volume only."""
        desired = []
        for each, source in Looker(self._resolve_one, _give_up, _drop).look_at(volumes):
            if source:
                self.sources[each.volume.name] = source
            desired.append(each)
        return desired

    def _resolve_one(self, volume: Volume) -> _Answer:
        target = volume.target
        try:
            if volume.source == volume.target:
                raise VolumeError(faults.in_place())
            if volume.recursive:
                raise VolumeError(faults.recursive())
            target, there = self._target(volume)
            if target in self._points and (top := top_at(target)):
                self.tops[target] = top
            user = self._user(volume)
            source, path = _open_source(volume.source)
            try:
                found = statx(source)
                kind = _kind(found, path)
                if there and there != kind:
                    raise VolumeError(faults.wrong_target_kind(target, kind))
                is_missing = there is None
                notes = (f"makes {target}",) if is_missing else ()
                mount = self._desired(volume, path, target, found, kind, user)
                mount = mount._replace(notes=mount.notes + notes) if notes else mount
                return mount, self._held(source)
            except BaseException:
                source.close()
                raise
        except VolumeError as error:
            return Unready(volume, target, error.fault), None
        except OSError as error:
            return Unready(volume, target, self._fault(error, volume)), None

    def _held(self, source: Fd) -> Fd | None:
        if self._most_sources == 0:
            source.close()
            return None
        self._most_sources -= 1
        return source

    def _fault(self, error: OSError, volume: Volume) -> Fault:
        if isinstance(error, UnsafeLinkError):
            return faults.unsafe_link(error.filename, error.strerror or "")
        if isinstance(error, PermissionError) and not self._is_acting:
            return faults.not_visible(error)
        return faults.from_kernel(error, f"look at {volume.source} or {volume.target}")

    def _desired(
        self, volume: Volume, path: str, target: str, found: Stat, kind: Kind, user: User | None
    ) -> DesiredMount:
        mount = self._mount(found.mount)
        flags = Flags(
            mount.flags.read_only if volume.read_only is None else volume.read_only,
            volume.nosuid,
            volume.nodev,
            mount.flags.noexec if volume.noexec is None else volume.noexec,
            volume.atime or mount.flags.atime,
        )
        stored = Ids(found.uid, found.gid)
        owner = volume.owner or stored
        is_read_only = flags.read_only or mount.is_fs_read_only
        idmap = chosen_idmap(
            volume, owner, user, is_read_only=is_read_only, stored=stored, mode=found.mode
        )
        if idmap and mount.idmap:
            raise VolumeError(faults.source_is_idmapped(path))
        is_out_of_reach = is_read_only or mount.flags.nosuid
        if (
            idmap
            and user
            and gives_root_away(volume, owner, user, is_out_of_reach=is_out_of_reach)
            and not (user.uid == ROOT and not self._accounts_of("/").has_uid(owner.uid))
        ):
            raise VolumeError(faults.root_owned(owner, user.uid))
        return DesiredMount(
            volume=volume,
            source=path,
            target=target,
            kind=kind,
            fs_type=mount.fs_type,
            device=found.device,
            inode=found.inode,
            owner=owner,
            user=user,
            shown=shown_owner(stored, idmap),
            idmap=idmap or mount.idmap,
            inherited=idmap is None,
            flags=flags,
            notes=_notes(idmap, owner, user),
        )

    def _user(self, volume: Volume) -> User | None:
        if volume.user is None:
            return None
        key = volume.accounts, volume.user
        if key not in self._users:
            self._users[key] = self._accounts_of(volume.accounts).resolve_user(volume.user)
        return self._users[key]

    def _accounts_of(self, root: str) -> Accounts:
        if root not in self._accounts:
            self._accounts[root] = Accounts(root, is_acting=self._is_acting)
        return self._accounts[root]

    def _mount(self, mount_id: int) -> ObservedMount:
        if mount_id not in self._mounts:
            self._mounts[mount_id] = observe_mount(mount_id)
        return self._mounts[mount_id]

    def _target(self, volume: Volume) -> tuple[str, Kind | None]:
        """The target's path without links, and what is there; None where it has to be made."""
        if is_plain_folder(volume.target):  # no links: the very path that the manifest's rules saw
            return volume.target, "folder"
        try:
            with spot(volume.target) as found:
                path = found.whole_path
                if why := why_forbidden(path, self._reserved):
                    raise VolumeError(faults.forbidden_target(path, why))
                if found.there:
                    return path, "folder" if stat.S_ISDIR(found.there.mode) else "file"
        except NotADirectoryError as error:
            raise VolumeError(faults.no_folder(volume.target)) from error
        if not volume.create:
            raise VolumeError(faults.no_target(volume.target))
        return path, None


def _give_up(volume: Volume) -> _Answer:
    fault = faults.not_answering(volume.source, volume.target, PATIENCE)
    return Unready(volume, volume.target, fault), None


def _drop(answer: _Answer) -> None:
    _, source = answer
    if source:
        source.close()


def _open_source(path: str) -> tuple[Fd, str]:
    try:
        return open_path(path)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            raise VolumeError(faults.no_source(path)) from error
        raise


def _kind(found: Stat, path: str) -> Kind:
    if stat.S_ISDIR(found.mode):
        return "folder"
    if stat.S_ISREG(found.mode):
        return "file"
    raise VolumeError(faults.wrong_source_kind(path, kind_in_words(found.mode)))


def _notes(idmap: Idmapping | None, owner: Ids, user: User | None) -> tuple[str, ...]:
    notes = []
    if idmap and not user and not (is_whole(idmap.uids) and is_whole(idmap.gids)):
        notes.append("ids that the extents leave out are seen as 65534 and can't be written")
    if user and user.gid is None:
        notes.append(f"uid {user.uid} has no account, so gids stay as they are")
    if (
        idmap
        and user
        and user.gid is not None
        and 0 in (owner.gid, user.gid)
        and owner.gid != user.gid
    ):
        other = owner.gid or user.gid
        notes.append(f"group {other} is swapped with root's, and could leave setgid files of it")
    return tuple(notes)
