"""Volume → desired mount: the source opened, owner and user looked up, the idmapping chosen."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Self

from mountd.core.choice import Root, choose, shown_owner, stored_owner
from mountd.core.desired import Desired, DesiredMount, Later, Unready, View
from mountd.core.drift import differences
from mountd.core.exposure import Asked
from mountd.core.model import Fault, Ids, User, Volume
from mountd.core.mounts import (
    AUTOMOUNT,
    Managed,
    Nobodys,
    Observed,
    ObservedMount,
    Top,
    is_same,
    root_at,
)
from mountd.core.named_tuple import NamedTuple
from mountd.core.nesting import account_files, paths_in
from mountd.core.words import faults, idmap_faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.cause import unanswered
from mountd.kernel.observe import is_mounted, top_at
from mountd.kernel.paths import whole_path
from mountd.kernel.patience import Looker, Patience
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import known_ids
from mountd.reconcile.accounts import AccountsOfAll
from mountd.reconcile.idmaps import Prober
from mountd.reconcile.sources import Source, Sources
from mountd.reconcile.targets import Target, Targets


class _Answer(NamedTuple):
    """What a volume means, its source, and what else was found out, perhaps by another process."""

    desired: Desired
    source: Fd | None = None
    top: Top | None = None
    gone: tuple[int, ...] = ()
    came: tuple[ObservedMount, ...] = ()
    warnings: tuple[str, ...] = ()


class Resolver:
    """Works out desired mounts, and holds the sources it opened until the end of the `with`."""

    def __init__(
        self,
        observed: Observed,
        managed: Mapping[int, Managed],
        sources: Sources,
        prober: Prober,
        patience: Patience,
        *,
        reserved: Mapping[str, str],
        held: Mapping[str, Fault],
        is_acting: bool,
        most_sources: int,
    ) -> None:
        """`managed`: this manifest's mounts; `reserved`: what no target may cover, by path.

        `held` volumes are left as they are, and why. `is_acting`: mounts will follow. More than
        `most_sources` are not held open, but opened again when needed.
        """
        self._observed = observed
        self._managed = managed
        self._opener = sources
        self._prober = prober
        self._patience = patience
        self._held = held
        self._sources_left = most_sources
        mounts = observed.mounts.values()
        self._points = {each.point for each in mounts}
        self._automounts = {each.point for each in mounts if each.fs_type == AUTOMOUNT}
        self._accounts = AccountsOfAll(is_acting=is_acting)
        self._targets = Targets(self._points, self._automounts, reserved, self._accounts)
        self._gone: set[int] = set()
        self._came: dict[int, ObservedMount] = {}
        self._warnings: dict[str, None] = {}
        self.tops: dict[str, Top] = {}
        """What is on top at each target on which something is mounted."""
        self.sources: dict[str, Fd] = {}
        """The source of each volume that means a mount, by its name; who takes one closes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self.sources.values():
            source.close()

    def keep_sources(self, volumes: Container[str]) -> None:
        """Close all others: an open descriptor keeps its mount busy."""
        for name in [*self.sources]:
            if name not in volumes:
                self.sources.pop(name).close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on account files that others than root could have written."""
        return tuple(self._warnings)

    @property
    def observed(self) -> Observed:
        """The mounts, with what is on top at the targets, and what came or went meanwhile."""
        observed = self._observed._replace(tops=self.tops)
        if not (self._gone or self._came):
            return observed
        mounts = {
            number: each
            for number, each in (observed.mounts | self._came).items()
            if number not in self._gone
        }
        return observed._replace(mounts=mounts)

    def nobodys(self, questions: Asked) -> Nobodys:
        """Which of these uids nobody on this machine can have, by the account files of `/`."""
        looker = Looker[Asked, Nobodys](
            self._patience, self._accounts.nobodys, _ask_in_vain, key=lambda _: "accounts of /"
        )
        (found,) = looker.look_at([questions])
        return found

    def _gone_from(self, target: str) -> tuple[int, ...]:
        """The mounts at a target that somebody took off just now, or covered from above."""
        there = [each.id for each in self._observed.mounts.values() if each.point == target]
        return tuple(each for each in there if not is_mounted(each))

    def resolve(self, volumes: Sequence[Volume]) -> list[Desired]:
        """What each volume means now. A source or target that hangs costs its own volume only."""
        desired = []
        looker = Looker[Volume, _Answer](
            self._patience,
            self._resolve_one,
            _give_up,
            key=place_of_volume,
            needed=self._prober,
        )
        for each in looker.look_at(volumes):
            if each.source:
                self.sources[each.desired.volume.name] = each.source
            if each.top:
                self.tops[each.desired.target] = each.top
            self._gone.update(each.gone)
            self._came |= {mount.id: mount for mount in each.came}
            self._warnings |= dict.fromkeys(each.warnings)
            desired.append(each.desired)
        return desired

    def _resolve_one(self, volume: Volume) -> _Answer:
        if volume.name in self._held:
            return _Answer(Unready(volume, volume.target, self._held[volume.name]))
        target = volume.target
        gone: tuple[int, ...] = ()
        came: tuple[ObservedMount, ...] = ()
        try:
            place = self._targets.find(volume)
            target = place.path
            if place.top:
                self.tops[target] = place.top
            elif target in self._points:
                if top := top_at(target):
                    self.tops[target] = top
                else:
                    gone = self._gone_from(target)
            desired, source, came = self._meant(volume, place)
        except VolumeError as error:
            desired, source = Unready(volume, target, error.fault), None
        except OSError as error:
            fault = unanswered(error, volume.source, volume.target)
            desired, source = Unready(volume, target, fault), None
        if reads := self._reads(desired):
            desired = desired._replace(reads=reads)
        top, warnings = self.tops.get(target), self._accounts.warnings
        return _Answer(desired, source, top, gone, came, warnings)

    def _reads(self, desired: Desired) -> tuple[str, ...]:
        """The paths that a volume depends on, without root's links: also where they dangle."""
        volume = desired.volume
        paths = [*paths_in(volume.options)]
        if volume.accounts != "/":
            paths += account_files(volume.accounts, volume.user)
        if isinstance(desired, Unready) and not volume.type:
            paths.append(volume.source)
        return tuple(found for each in paths if (found := whole_path(each)) != each)

    def _meant(
        self, volume: Volume, place: Target
    ) -> tuple[Desired, Fd | None, tuple[ObservedMount, ...]]:
        """What the volume means, its source, and the mounts that appeared as it was opened."""
        target = place.path
        user = self._accounts.user_of(volume)
        if place.why_not:
            raise VolumeError(place.why_not)
        if volume.filesystem and self._opener.is_for_later(volume.filesystem):
            return Later(volume, target), None, ()
        if kept := self._kept_asleep(volume, place, user):
            return kept, None, ()
        source = self._opener.open(volume, target)
        try:
            if source.through and self._opener.hides_its_source(source, user):
                source.fd.close()
                return Later(volume, target, source.through), None, ()
            top = self.tops.get(target)
            mounted = self._managed.get(top.id) if top else None
            is_other = place.there not in (None, source.kind)
            if is_other and (mounted or not top):  # a stranger is reported as one, later
                raise VolumeError(faults.wrong_target_kind(target, source.kind, mounted))
            mount = self._desired(volume, place, source, user)
            came = tuple(each for each in source.mounts if each.id not in self._observed.mounts)
            return mount, self._kept_open(source.fd), came
        except BaseException:
            source.fd.close()
            raise

    def _kept_asleep(self, volume: Volume, place: Target, user: User | None) -> DesiredMount | None:
        """What a volume means that is as desired, made of automounts that may go on sleeping."""
        top = self.tops.get(place.path)
        ours = self._managed.get(top.id) if top else None
        there = self._observed.mounts.get(ours.id) if ours else None
        if not (top and ours and there and is_same(ours, there) and there.point == place.path):
            return None
        try:
            source = self._opener.asleep(volume, ours)
            if source is None:
                return None
            with source.fd:
                source = source._replace(asleep=())  # what is mounted was made when they weren't
                mount = self._desired(volume, place, source, user)
        except VolumeError:
            return None  # the usual way, which wakes them, finds out
        tells_idmaps = self._observed.tells_idmaps
        return None if differences(mount, there, top, ours, tells_idmaps=tells_idmaps) else mount

    def _kept_open(self, source: Fd) -> Fd | None:
        if self._sources_left == 0:
            source.close()
            return None
        self._sources_left -= 1
        return source

    def _desired(
        self, volume: Volume, place: Target, source: Source, user: User | None
    ) -> DesiredMount:
        target, found, own = place.path, source.found, source.own
        flags = volume.flags_over(own.flags)
        stored = stored_owner(Ids(found.uid, found.gid), source.idmap)
        seen = shown_owner(stored, own.idmap)
        if volume.recursive and target.startswith(f"{source.path.rstrip('/')}/"):
            raise VolumeError(faults.target_in_source(target))
        is_read_only = flags.read_only or own.is_fs_read_only
        views = [View(own.device, root_at(source.mount, source.path), is_read_only)]
        views += (view for below in source.submounts.values() for view in _views(below, volume))
        is_writable = not all(view.is_read_only for view in views)
        root = Root(stored, seen, found.mode, own.idmap, is_read_only, is_writable)
        choice = choose(volume, root, user, known_ids())
        mount = DesiredMount(
            volume=volume,
            source=volume.source if volume.type else source.path,
            target=target,
            kind=source.kind,
            fs_type=own.fs_type,
            device=found.device,
            inode=found.inode,
            user=user,
            seen=seen,
            choice=choice,
            flags=flags,
            views=(*views,),
            source_idmap=own.idmap,
            through_idmap=source.idmap,
            through=source.through,
            filesystem=source.filesystem,
            submounts={
                path: volume.flags_over(below[-1].flags) for path, below in source.submounts.items()
            },
            automounts=source.automounts,
            makes=place.makes,
        )
        fault = choice.refused and choice.refused.fault
        if choice.idmap:
            fault = self._why_refused(mount, source.fd, own)
        if fault and (volume.fallback == "fail" or fault.passes):
            raise VolumeError(fault)
        if fault:
            mount = mount.with_raw_ids(fault)
        is_untried = choice.idmap and not fault and not self._prober.is_privileged
        notes = ["whether it takes the idmapping can be tried by root alone"] if is_untried else []
        notes += (mount_faults.asleep(f"{target}/{each}") for each in source.asleep)
        if place.makes:
            notes.append(f"makes {', '.join(place.makes)}")
        return mount._replace(notes=tuple(notes)) if notes else mount

    def _why_refused(self, mount: DesiredMount, source: Fd, own: ObservedMount) -> Fault | None:
        """Why the mount can't have its idmapping; a lasting refusal on record isn't tried again."""
        top = self.tops.get(mount.target)
        if top and (top.device, top.inode) == (mount.device, mount.inode):
            managed = self._managed.get(top.id)
            there = self._observed.mounts.get(top.id)
            refused = managed.refused if managed else None
            if refused and refused.idmap == mount.idmap and refused.fault.lasts:
                return refused.fault
            if mount.idmap in (managed and managed.idmap, there and there.idmap):
                return None  # it has it already
        if own.is_idmapped and not self._observed.can_remap:
            return idmap_faults.source_is_idmapped(mount.source)
        return self._prober(source, mount)


def _views(mounts: Sequence[ObservedMount], volume: Volume) -> Iterator[View]:
    """What a recursive volume shows of these, which are mounted below its source."""
    for each in mounts:
        is_read_only = each.flags.read_only if volume.read_only is None else volume.read_only
        root = each.root.removesuffix("//deleted")
        yield View(each.device, root, is_read_only or each.is_fs_read_only)


def _ask_in_vain(questions: Asked, error: OSError) -> Nobodys:
    fault = unanswered(error, "/etc/passwd", "/etc/group")
    return Nobodys(questions.accounts, fault.message)


def _give_up(volume: Volume, error: OSError) -> _Answer:
    fault = unanswered(error, volume.source, volume.target)
    return _Answer(Unready(volume, volume.target, fault))


def place_of_volume(volume: Volume) -> tuple[str, ...]:
    """Key of a lookup: edits of other keys start no second child for a volume that hangs."""
    return volume.name, volume.source, volume.target, volume.accounts
