"""A machine of values: what the kernel, the record and a pass would do, to try plans on.

A path is followed as the kernel does it, from mount to mount, so covered, moved and nested ones
are found where they would be. A step that the kernel would refuse, or that would take a stranger
along, is an assertion: no plan may ask for it.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from mountd.core.actions import Action, Outcome
from mountd.core.choice import Root, choose, shown_owner, stored_owner
from mountd.core.desired import Desired, DesiredMount, Later, Unready, View
from mountd.core.drift import record_entry
from mountd.core.idmapping import IDENTITY, Idmapping
from mountd.core.model import Fault, Flags, Ids, User, Volume
from mountd.core.mounts import Managed, Observed, ObservedMount, Top, forest_of, may_adopt, root_at
from mountd.core.order import Progress, adopts, as_one, is_half_done, is_told, unseen
from mountd.core.plan import needs_gap_in_place, plan
from mountd.core.targets import folders_above
from mountd.core.words import faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.reconcile.record import Record

OURS, THEIRS = "/etc/mountd.toml", "/srv/other.toml"
RW = Flags(read_only=False, nosuid=True, nodev=True, noexec=False, atime="relatime")
OWNER = Ids(501, 20)
NOT_COMPOSED = Fault("failed", "source-is-idmapped", "its source is idmapped already")
EVERY_ID = Idmapping(IDENTITY, IDENTITY)

Tree = list[ObservedMount]
"""A detached mount, and those below it."""


class KilledError(Exception):
    """The pass ends here, in the midst of it."""


class Kernel(NamedTuple):
    """What it can do, as Observed has it."""

    tells_idmaps: bool = True
    can_remap: bool = True
    can_go_beneath: bool = True


NEW, DEBIAN_13, DEBIAN_12 = Kernel(), Kernel(False, False), Kernel(False, False, False)


class Round(NamedTuple):
    """One plan of a pass: what it was made for and of, and what was carried out of it."""

    desired: list[Desired]
    observed: Observed
    record: list[Managed]
    progress: Progress
    actions: list[Action]


def leads_to(mounts: dict[int, ObservedMount], path: str, start: ObservedMount) -> ObservedMount:
    """The mount that a path leads to, followed from one on which it lies."""
    mount = start
    over = {(each.parent, each.point): each for each in mounts.values()}
    for folder in (*reversed(folders_above(path)), path):
        while len(folder) > len(start.point) and (mount.id, folder) in over:
            mount = over[mount.id, folder]
    return mount


class Machine:
    """Mounts and a record. Each path exists on each filesystem, owned by 501:20."""

    def __init__(self, kernel: Kernel = NEW) -> None:
        self.kernel = kernel
        self.mounts: dict[int, ObservedMount] = {}
        self.record: dict[int, Managed] = {}
        self.known = Record(None, "")
        """What the record says of other mounts: how far it can be believed."""
        self.busy: set[str] = set()
        """Where somebody is inside, and nothing can be unmounted."""
        self.story: object = "a machine"
        """What has happened to it, for whoever reads a failure."""
        self.steps_left: int | None = None
        """How many mounts a pass may still attach, detach or adjust before it is killed."""
        self._next_id = 1 << 32  # as the kernel's unique ids
        self._next_device = 7
        self._inodes: dict[tuple[int, str], int] = {}
        self._renewed: dict[int, int] = {}
        self._held: dict[str, tuple[str, ObservedMount, ObservedMount]] = {}
        self.root = self._made(1, "/", "ext4", self._new_device(), "/", None, RW)
        self.mounts[self.root.id] = self.root

    def __repr__(self) -> str:
        return f"{self.story}"

    def new_id(self) -> int:
        """One that no mount has had."""
        self._next_id += 1
        return self._next_id

    def _new_device(self) -> int:
        self._next_device += 1
        return self._next_device

    # what there is

    def at(self, path: str) -> ObservedMount:
        """The mount that a path leads to."""
        return leads_to(self.mounts, path, self.root)

    def top(self, path: str) -> ObservedMount | None:
        """The mount that is seen at a path, if something is mounted there."""
        mount = self.at(path)
        return mount if mount.point == path else None

    def file(self, path: str) -> tuple[int, int]:
        """Device and inode of what a path shows."""
        mount = self.at(path)
        return mount.device, self._inode(mount.device, root_at(mount, path))

    def below(self, ancestor: int) -> list[ObservedMount]:
        """The mounts that lie on this one, parents first."""
        found = [ancestor]
        for each in found:
            found += [mount.id for mount in self.mounts.values() if mount.parent == each]
        return [self.mounts[each] for each in found[1:]]

    def manifest_of(self, mount: ObservedMount) -> str | None:
        """Whose a mount is by the record, None for a foreign one; a submount is its top's."""
        for managed in self.record.values():
            if mount.id in (managed.id, *managed.submounts):
                return managed.manifest
        return None

    def observed(self, tops: Iterable[str] = ()) -> Observed:
        """What mountd sees, and what is on top at these paths."""
        tells = self.kernel.tells_idmaps
        hidden = {
            each.id: each if tells else each._replace(idmap=None) for each in self.mounts.values()
        }
        found: dict[str, Top] = {}
        for path in tops:
            if mount := self.top(path):
                owner = shown_owner(OWNER, mount.idmap)
                found[path] = Top(mount.id, *self.file(path), owner)
        return Observed(hidden, found, *self.kernel)

    def means(self, volume: Volume, manifest: str = OURS) -> DesiredMount:
        """The mount that a volume means now, as resolve.py works it out."""
        target, tells = volume.target, self.kernel.tells_idmaps
        source, reached, own = self._held[volume.name] = self._reached(volume, manifest)
        through = reached.id if reached != own else None
        idmap, source_idmap = (reached.idmap, own.idmap) if tells else (None, None)
        if through in self.record and not tells:
            idmap = self.record[through].idmap
        stored = stored_owner(shown_owner(OWNER, reached.idmap), idmap)
        seen = shown_owner(stored, source_idmap)
        user = None if volume.user is None else User(int(volume.user), int(volume.user))
        is_read_only = own.flags.read_only if volume.read_only is None else volume.read_only
        root = Root(stored, seen, 0o40700, source_idmap, is_read_only)
        choice = choose(volume, root, user, EVERY_ID)._replace(notes=())
        flags = own.flags._replace(read_only=is_read_only, nosuid=True, nodev=True)
        submounts = self._submounts(reached, source) if volume.recursive else ()
        mount = DesiredMount(
            volume=volume,
            source=volume.source if volume.type else source,
            target=target,
            kind="folder",
            fs_type=own.fs_type,
            device=reached.device,
            inode=self._inode(reached.device, root_at(reached, source)),
            user=user,
            seen=seen,
            choice=choice,
            flags=flags,
            views=(View(own.device, root_at(reached, source), is_read_only),),
            source_idmap=source_idmap,
            through_idmap=idmap,
            through=through,
            submounts=dict.fromkeys(submounts, flags),
        )
        is_refused = choice.idmap and own.is_idmapped and not self.kernel.can_remap
        return mount.with_raw_ids(NOT_COMPOSED) if is_refused else mount

    # what others do

    def put(self, volume: Volume, manifest: str | None = OURS, at: str = "") -> ObservedMount:
        """A mount as this volume means it, recorded for a manifest or for none, now `at` a path."""
        wanted = self.means(volume, manifest or OURS)
        tree = self._tree(wanted, at or wanted.target, manifest or OURS)
        self._attach(tree, self.at(at or wanted.target))
        if manifest:
            self._enter(wanted, tree, manifest)
        return tree[0]

    def put_foreign(
        self, point: str, idmap: Idmapping | None = None, *, fs_type: str = "xfs"
    ) -> ObservedMount:
        """Somebody's mount, of which mountd knows nothing."""
        parent = self.at(point).id
        mount = self._made(parent, point, fs_type, self._new_device(), "/", idmap, RW)
        self.mounts[mount.id] = mount
        return mount

    def rename(self, mount: ObservedMount, point: str) -> None:
        """Have a mount, and what lies on it, somewhere else, as `mount --move` does."""
        parent = self.at(point).id
        for each in (mount, *self.below(mount.id)):
            moved = point + each.point.removeprefix(mount.point)
            self.mounts[each.id] = each._replace(point=moved)
        self.mounts[mount.id] = self.mounts[mount.id]._replace(parent=parent)

    def take_off(self, mount: ObservedMount) -> None:
        """Detach a mount, and what lies on it."""
        for each in (*self.below(mount.id), mount):
            del self.mounts[each.id]

    def lose_record(self) -> None:
        """As after `rm -r /run/mountd`."""
        self.record.clear()
        self.known = Record(None, "")

    # a pass

    def run(
        self, volumes: Sequence[Volume], manifest: str = OURS, *,
        unready: Collection[str] = (), later: Collection[str] = (), removes: bool = True,
    ) -> tuple[list[Round], dict[str, Outcome], list[Outcome]]:  # fmt: skip
        """One pass as reconcile.py makes it: its rounds, what became of each, and what left."""
        done: dict[str, Outcome] = {}
        begun: dict[str, Outcome] = {}
        departed: list[Outcome] = []
        desired: dict[str, Desired] = {}
        rounds: list[Round] = []
        has_adopted = False
        self._forget_gone()
        while True:
            waiting = [each for each in volumes if each.name not in done]
            desired |= {
                each.name: self._desired(each, unready, later, manifest) for each in waiting
            }
            observed = self.observed([each.target for each in waiting])
            progress = Progress(
                {name: each.fault for name, each in done.items()},
                {
                    each.action.old.id: each.fault
                    for each in departed
                    if each.fault and each.action.old
                },
                removes,
                adoptable=self.known.adoptable(manifest),
            )
            record = [*self.record.values()]
            actions = plan([*desired.values()], observed, record, manifest, progress)
            rounds.append(Round([*desired.values()], observed, record, progress, actions))
            ready = [each for each in actions if not each.after]
            has_adopted |= adopts(actions, self.record)
            self.known.settle(
                manifest,
                unseen(actions),
                has_adopted=has_adopted,
                is_over=len(ready) == len(actions),
            )
            for outcome in self.apply(ready, manifest):
                name = outcome.action.volume
                if is_half_done(outcome):
                    begun[name] = outcome
                elif outcome.action.verb == "unmount":
                    departed.append(outcome)
                else:
                    done[name] = as_one(begun.get(name), outcome)
            if later or (len(ready) == len(actions) and all(each.name in done for each in volumes)):
                staying = [*done.values()]
                return rounds, done, [each for each in departed if not is_told(each, staying)]
            assert ready, "volumes wait for each other"
            assert len(rounds) < 2 * len(volumes) + 9, "the rounds don't end"

    def _desired(
        self, volume: Volume, unready: Collection[str], later: Collection[str], manifest: str
    ) -> Desired:
        if volume.name in unready:
            return Unready(volume, volume.target, faults.no_source(volume.source))
        if volume.name in later:
            return Later(volume, volume.target)
        mount = self.means(volume, manifest)
        if mount.through and not self._shows_what_it_covers(self.mounts[mount.through]):
            return Later(volume, volume.target, mount.through)
        return mount

    def apply(self, actions: list[Action], manifest: str = OURS) -> Iterator[Outcome]:
        """Carry actions out as apply.py does: builds in a row are all cloned before any shows."""
        self._renewed = {}
        stuck: list[str] = []
        failed: dict[str, Fault] = {}
        for action in actions:
            if action.verb == "keep" and action.old:
                self.record[action.old.id] = action.old
        for builds, group in groupby(actions, key=self._is_built_first):
            batch = [*group]
            if builds:
                trees = [self._build(each, stuck, manifest) for each in batch]
                for action, built in zip(batch, trees, strict=True):
                    if isinstance(built, Fault):
                        failed[action.volume] = built
                        yield Outcome(action, built.state, built)
                        continue
                    try:
                        self._attach_built(action, built)
                        yield Outcome(action, "mounted")
                    except VolumeError as error:
                        failed[action.volume] = error.fault
                        yield Outcome(action, error.fault.state, error.fault)
                continue
            for action in batch:
                fault = self._carry_out(action, manifest, failed)
                if fault and action.verb == "unmount":
                    stuck.append(action.target)
                state = fault.state if fault else action.state
                yield Outcome(action, state, fault or action.fault)

    def _is_built_first(self, action: Action) -> bool:
        if action.verb not in ("mount", "replace") or action.beneath or not action.mount:
            return False
        return not needs_gap_in_place(action.mount, self.observed())

    def _carry_out(self, action: Action, manifest: str, failed: dict[str, Fault]) -> Fault | None:
        old, wanted = action.old, action.mount
        match action.verb:
            case "replace" | "unmount" if action.beneath:
                assert old
                return self._let_out(action)
            case "replace":
                assert wanted
                wanted = wanted._replace(through=None, through_idmap=wanted.source_idmap)
                self._held.pop(wanted.volume.name)
                self._swap(action, wanted, manifest)
            case "adjust":
                assert old and wanted and self._is_top(old.id)
                self._step()
                self.mounts[old.id] = self.mounts[old.id]._replace(flags=wanted.flags)
                self.record[old.id] = old
            case "unmount" if action.volume in failed:
                return mount_faults.not_moved(action.volume, action.target, failed[action.volume])
            case "unmount":
                return self._unmount(action)
            case "mount":
                raise AssertionError("built first")
        return None

    def _build(self, action: Action, stuck: list[str], manifest: str) -> Tree | Fault:
        assert action.mount
        for point in stuck:
            if point.startswith(f"{action.target}/"):
                return mount_faults.busy_below(action.target, point)
        return self._cloned(action.mount, manifest)

    def _cloned(self, wanted: DesiredMount, manifest: str) -> Tree:
        tree = self._tree(wanted, wanted.target, manifest)
        self._enter(wanted, tree, manifest)
        return tree

    def _attach_built(self, action: Action, tree: Tree) -> None:
        wanted, old = action.mount, action.old
        assert wanted
        if not old:
            there = self.top(action.target)
            source = wanted.is_in_place and self.file(action.target) == (
                wanted.device,
                wanted.inode,
            )
            assert there is None or source, "it would be stacked"
            assert there is None or there.id not in self.record, "it would be stacked on ours"
            carried = self._take_along(action)
            for each, _ in carried:
                self._detach(each.id)
            copies = {f"{wanted.target}/{each}" for each in wanted.submounts if wanted.is_in_place}
            assert not [
                each
                for each in self.mounts.values()
                if each.point.startswith(f"{action.target}/")
                and self._is_top(each.id)
                and each.point not in copies
            ], "it would bury a mount"
            self._attach(tree, self.at(action.target))
        elif self.kernel.can_go_beneath:
            self._see_no_strangers(action)
            carried = self._take_along(action)
            assert self._is_top(old.id), "it would go beneath another"
            parent = self.mounts[self.mounts[old.id].parent]
            self._attach(tree, parent)
            self.mounts[old.id] = self.mounts[old.id]._replace(parent=tree[0].id)
        else:
            self._swap(action, tree)
            return
        for _, clone in carried:
            self._attach(clone, leads_to(self.mounts, clone[0].point, tree[0]))
        if old:
            self._detach(old.id)

    def _swap(self, action: Action, wanted: DesiredMount | Tree, manifest: str = OURS) -> None:
        """With a gap: the old one off, the new one on."""
        assert action.old
        self._see_no_strangers(action)
        carried = self._take_along(action)
        self._detach(action.old.id)
        tree = wanted if isinstance(wanted, list) else self._cloned(wanted, manifest)
        self._attach(tree, self.at(action.target))
        for _, clone in carried:
            self._attach(clone, leads_to(self.mounts, clone[0].point, tree[0]))

    def _unmount(self, action: Action) -> Fault | None:
        assert action.old
        assert action.old.id in self.mounts, f"what was at {action.target} is another mount now"
        old = self.mounts[action.old.id]
        if not self._is_top(old.id):
            return self._covered(old.id, old.point)
        try:
            carried = self._take_along(action)
        except VolumeError as error:
            return error.fault
        for each, _ in carried:
            self._detach(each.id)
        strangers = [each for each in self.below(old.id) if each.id not in action.old.submounts]
        fault = None
        if strangers or any(
            old.point == each or each.startswith(f"{old.point}/") for each in self.busy
        ):
            fault = mount_faults.busy(old.point, [])
        else:
            self._detach(old.id)
        for _, clone in carried:
            self._attach(clone, self.at(clone[0].point))
        return fault

    def _let_out(self, action: Action) -> Fault | None:
        """The upper one of two of ours goes, whoever is inside."""
        assert action.old
        if not self._is_top(action.old.id):
            return self._covered(action.old.id, action.target)
        self._see_no_strangers(action)
        try:
            carried = self._take_along(action)
        except VolumeError as error:
            return error.fault
        self._detach(action.old.id)
        for _, clone in carried:
            self._attach(clone, self.at(clone[0].point))
        return None

    def _covered(self, mount: int, target: str) -> Fault:
        return mount_faults.covered_above(target, mount, forest_of(self.mounts), self.record)

    def _take_along(self, action: Action) -> list[tuple[ObservedMount, Tree]]:
        """Our mounts below the target, and clones of them with all that lies on them."""
        taken = []
        for point, managed in action.carried:
            present = self._present(managed.id)
            if not self._is_top(present):
                raise VolumeError(self._covered(present, point))
            old = self.mounts[present]
            ids: dict[int, int] = {}
            tree = []
            for each in (old, *self.below(old.id)):
                ids[each.id] = self.new_id()
                parent = ids.get(each.parent, each.parent)
                tree.append(each._replace(id=ids[each.id], parent=parent))
            for entry in [*self.record.values()]:
                if entry.id in ids:
                    submounts = tuple(ids.get(each, each) for each in entry.submounts)
                    clone = entry._replace(id=ids[entry.id], submounts=submounts)
                    self.record[clone.id] = clone
            self._renewed |= ids
            taken.append((old, tree))
        return taken

    def _present(self, mount: int) -> int:
        """The id that a mount has since it was last taken along."""
        while mount in self._renewed:
            mount = self._renewed[mount]
        return mount

    def _see_no_strangers(self, action: Action) -> None:
        assert action.old
        known = {*action.old.submounts}
        for _, managed in action.carried:
            top = self._present(managed.id)
            known |= {top, *(each.id for each in self.below(top))}
        below = {each.id for each in self.below(action.old.id)}
        assert below <= known, "it would take what isn't ours along"

    def _tree(self, wanted: DesiredMount, point: str, manifest: str) -> Tree:
        """A detached mount as it is wanted: of the source as it was opened."""
        held = self._held.pop(wanted.volume.name) if wanted.volume.name in self._held else None
        source, reached, own = held or self._reached(wanted.volume, manifest)
        assert reached.id in self.mounts, "its source was taken off meanwhile"
        root = root_at(reached, source)
        found = reached.device, self._inode(reached.device, root)
        assert found == (wanted.device, wanted.inode), "it would be made of something else"
        idmap = wanted.choice.idmap or own.idmap
        top = self._made(0, point, wanted.fs_type, reached.device, root, idmap, wanted.flags)
        tree = [top]
        for path in self._submounts(reached, source) if wanted.volume.recursive else ():
            below = self.at(f"{source}/{path}")
            parent = max(
                (each for each in tree if _is_above(each.point, f"{point}/{path}")), key=_depth
            )
            idmap = wanted.idmap if wanted.volume.user else below.idmap
            tree.append(
                self._made(
                    parent.id, f"{point}/{path}", below.fs_type, below.device, below.root, idmap,
                    wanted.flags,
                )
            )  # fmt: skip
        return tree

    def _enter(self, wanted: DesiredMount, tree: Tree, manifest: str) -> None:
        submounts = tuple(each.id for each in tree[1:])
        self.record[tree[0].id] = record_entry(wanted, tree[0].id, manifest, submounts)

    def _attach(self, tree: Tree, parent: ObservedMount) -> None:
        self._step()
        self.mounts[tree[0].id] = tree[0]._replace(parent=parent.id)
        self.mounts |= {each.id: each for each in tree[1:]}

    def _detach(self, mount: int) -> None:
        assert self._is_top(mount), f"{self.mounts[mount].point} isn't what is on top there"
        self._step()
        self.take_off(self.mounts[mount])

    def _is_top(self, mount: int) -> bool:
        top = self.top(self.mounts[mount].point)
        return top is not None and top.id == mount

    def _step(self) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise KilledError
            self.steps_left -= 1

    def _forget_gone(self) -> None:
        self.record = {each: entry for each, entry in self.record.items() if each in self.mounts}

    def _reached(self, volume: Volume, manifest: str) -> tuple[str, ObservedMount, ObservedMount]:
        """Where a volume's source is, the mount that shows it, and the one that is its own."""
        source = f"/run/mountd/fs/{volume.source}" if volume.type else volume.source
        reached = own = self.at(source)
        if source == volume.target and reached.point == source:
            while self._is_ours(own, volume.target, manifest):
                own = self.mounts[own.parent]
        return source, reached, own

    def _submounts(self, reached: ObservedMount, source: str) -> tuple[str, ...]:
        below = {each.point for each in self.below(reached.id)}
        paths = {each[len(source) + 1 :] for each in below if each.startswith(f"{source}/")}
        return tuple(sorted(paths, key=lambda path: (path.count("/"), path)))

    def _is_ours(self, mount: ObservedMount, target: str, manifest: str) -> bool:
        if mount.point != target:
            return False
        managed = self.record.get(mount.id)
        if managed and managed.manifest == manifest:
            return managed.target == target
        is_adoptable = may_adopt(self.known.adoptable(manifest), target)
        return is_adoptable and self._shows_what_it_covers(mount)

    def _shows_what_it_covers(self, mount: ObservedMount) -> bool:
        parent = self.mounts[mount.parent]
        return (mount.device, mount.root) == (parent.device, root_at(parent, mount.point))

    def _inode(self, device: int, path: str) -> int:
        return self._inodes.setdefault((device, path), len(self._inodes) + 1)

    def _made(
        self, parent: int, point: str, fs_type: str, device: int, root: str,
        idmap: Idmapping | None, flags: Flags,
    ) -> ObservedMount:  # fmt: skip
        return ObservedMount(
            self.new_id(), parent, point, root, fs_type, device, flags,
            is_fs_read_only=False, idmap=idmap, is_idmapped=idmap is not None,
        )  # fmt: skip


def _is_above(folder: str, path: str) -> bool:
    return path.startswith(f"{folder}/")


def _depth(mount: ObservedMount) -> int:
    return mount.point.count("/")
