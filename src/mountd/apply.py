"""Actions → outcomes. One volume's failure doesn't stop the others.

New mounts are built many at a time: their ids enter the record in one write, then each is attached.
"""

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import Self, TypeVar

from mountd.core import faults
from mountd.core.faults import VolumeError
from mountd.core.idmapping import Idmapping
from mountd.core.model import Action, DesiredMount, Fault, Managed, Outcome
from mountd.core.plan import differences, record_entry
from mountd.kernel import tree
from mountd.kernel.observe import is_mounted, observe_mount, top_at
from mountd.kernel.paths import UnsafeLinkError, made, open_path, spot
from mountd.kernel.syscalls import Fd, statx
from mountd.kernel.tree import Tree
from mountd.kernel.userns import UserNamespaceError, make_user_namespace
from mountd.patience import PATIENCE, Looker
from mountd.record import Record

_T = TypeVar("_T")


def apply(
    actions: Sequence[Action],
    sources: dict[str, Fd],
    record: Record,
    manifest: str,
    *,
    tells_idmaps: bool,
) -> Iterator[Outcome]:
    """Carry the actions out in their order, and say what became of each."""
    with _Run(sources, record, manifest, tells_idmaps) as run:
        if fault := run.prepare(actions):
            yield from (
                _left(each) if run.is_on_record(each) else _stopped(each, fault) for each in actions
            )
            return
        for builds, group in groupby(actions, key=_builds):
            if builds:
                yield from run.put_up(list(group))
            else:
                yield from map(run.carry_out, group)
        run.finish()


class _Run:
    """One pass's changes, and the user namespaces that it has made: one for each distinct map."""

    def __init__(
        self, sources: dict[str, Fd], record: Record, manifest: str, tells_idmaps: bool
    ) -> None:
        self._tells_idmaps = tells_idmaps
        self._sources = sources
        self._record = record
        self._manifest = manifest
        self._namespaces: dict[Idmapping, Fd] = {}
        self._recorded: dict[int, Managed] = {}
        self._failed: dict[str, Fault] = {}
        """Volumes that could not be mounted: what they have elsewhere stays."""
        self._stuck: list[str] = []
        """Where mounts could not be taken off: nothing may be mounted over them."""
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def prepare(self, actions: Sequence[Action]) -> Fault | None:
        """Record what is kept. Where the record can't be written, nothing may be changed."""
        self._recorded = {**self._record.managed}
        for action in actions:
            if action.verb == "keep" and action.old:
                self._record.add(action.old)
        return self._write(always=any(map(_changes, actions)))

    def is_on_record(self, action: Action) -> bool:
        """Whether nothing is to be done about this one, not even in the record."""
        is_known = action.old is None or self._recorded.get(action.old.id) == action.old
        return action.verb is None or (action.verb == "keep" and is_known)

    def finish(self) -> None:
        """Let the record forget what went. Where that fails, the next pass sees that it is gone."""
        self._write()

    def put_up(self, actions: list[Action]) -> Iterator[Outcome]:
        """Mount or replace: build, record, attach; as many at once as there may be descriptors.

        All are built before the first is attached: open_tree(2) looks at each mount that lies on
        the source's own, and often these are the targets. Else a pass were quadratic.
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        at_once = limit // 2
        for start in range(0, len(actions), at_once):
            yield from self._put_up_at_once(actions[start : start + at_once])

    def _put_up_at_once(self, actions: list[Action]) -> Iterator[Outcome]:
        built = [(action, _attempt(action, self._build)) for action in actions]
        unrecorded = self._write()
        for action, result in built:
            fault = result if isinstance(result, Fault) else unrecorded
            if isinstance(result, Tree):
                with result.fd:
                    fault = fault or _attempt(action, partial(self._attach, built=result))
                if fault or action.old:
                    self._forget_unless_mounted(result.id)
            if fault:
                self._failed[action.volume] = fault
            yield _stopped(action, fault) if fault else Outcome(action, "mounted")

    def carry_out(self, action: Action) -> Outcome:
        """Do an action that builds nothing, or finishes what another pass began."""
        match action.verb:
            case "replace":
                fault = _attempt(action, self._finish)
            case "adjust":
                fault = _attempt(action, self._adjust)
            case "unmount" if action.volume in self._failed:
                why = self._failed[action.volume]
                fault = faults.not_moved(action.volume, action.target, why)
            case "unmount":
                (fault,) = Looker(self._try_unmount, _give_up, _forget).look_at([action])
                if fault:
                    self._stuck.append(action.target)
            case _:
                return _left(action)
        if fault:
            return _stopped(action, fault)
        return Outcome(action, "unmounted" if action.verb == "unmount" else "mounted")

    def _finish(self, action: Action) -> None:
        """Take off the old mount of a replacement that was interrupted; begin anew if need be."""
        assert action.mount and action.old and action.beneath
        with spot(action.target) as found:
            tree.detach(found, action.old.id)
        self._record.remove(action.old.id)
        if not self._is_as_desired(action.mount, action.beneath):
            (outcome,) = self._put_up_at_once([action._replace(old=action.beneath)])
            if outcome.fault:
                raise VolumeError(outcome.fault)

    def _is_as_desired(self, wanted: DesiredMount, managed: Managed) -> bool:
        """Whether what an interrupted replacement had put beneath, and shows now, is it."""
        top = top_at(wanted.target)
        if not top or top.id != managed.id:
            return False
        mount = observe_mount(managed.id)
        return not differences(wanted, mount, top, managed, tells_idmaps=self._tells_idmaps)

    def _adjust(self, action: Action) -> None:
        assert action.mount and action.old
        with spot(action.target) as found:
            tree.adjust(found, action.old.id, action.mount.flags)
        self._record.add(record_entry(action.mount, action.old.id, self._manifest))

    def _try_unmount(self, action: Action) -> Fault | None:
        return _attempt(action, self._unmount)

    def _unmount(self, action: Action) -> None:
        assert action.old
        with spot(action.target) as found:
            tree.unmount(found, action.old.id)
        self._record.remove(action.old.id)

    def _build(self, action: Action) -> Tree:
        """The detached mount, its id entered in the record, which is not written yet."""
        assert action.mount
        wanted = action.mount
        for point in self._stuck:
            if point.startswith(f"{wanted.target}/"):
                raise VolumeError(faults.busy_below(wanted.target, point))
        with self._source(wanted) as source:
            built = tree.build(source, wanted, self._namespace(wanted))
        self._record.add(record_entry(wanted, built.id, self._manifest))
        return built

    def _source(self, wanted: DesiredMount) -> Fd:
        """The source as it was resolved: held since, or opened again and seen to be the same."""
        if source := self._sources.pop(wanted.volume.name, None):
            return source
        source, _ = open_path(wanted.source)
        found = statx(source)
        if (found.device, found.inode) != (wanted.device, wanted.inode):
            source.close()
            raise VolumeError(faults.moved_meanwhile(wanted.source))
        return source

    def _attach(self, action: Action, built: Tree) -> None:
        assert action.mount
        if old := action.old:
            try:
                with spot(action.target) as found:
                    tree.replace(built, found, old.id)
            finally:
                self._forget_unless_mounted(old.id)
        else:
            with made(action.target, action.mount.kind) as found:
                tree.attach(built, found)

    def _namespace(self, wanted: DesiredMount) -> Fd | None:
        if wanted.inherited or wanted.idmap is None:
            return None
        namespace = self._namespaces.get(wanted.idmap)
        if namespace is None:
            namespace = self._held.enter_context(make_user_namespace(wanted.idmap))
            self._namespaces[wanted.idmap] = namespace
        return namespace

    def _forget_unless_mounted(self, mount: int) -> None:
        if not is_mounted(mount):
            self._record.remove(mount)

    def _write(self, *, always: bool = False) -> Fault | None:
        try:
            self._record.write(always=always)
        except OSError as error:
            return faults.unwritable_record(error)
        return None


def _attempt(action: Action, step: Callable[[Action], _T]) -> _T | Fault:
    """Do a step of an action; what stops it becomes a sentence about this volume."""
    try:
        return step(action)
    except VolumeError as error:
        return error.fault
    except UnsafeLinkError as error:
        return faults.unsafe_link(error.filename, error.strerror or "")
    except UserNamespaceError as error:
        return faults.no_namespace(error)
    except OSError as error:
        return faults.from_kernel(error, f"{action.verb} {action.target}")


def _give_up(action: Action) -> Fault:
    return faults.not_answering(action.source, action.target, PATIENCE)


def _forget(_: object) -> None:
    pass


def _changes(action: Action) -> bool:
    return action.verb not in (None, "keep")


def _builds(action: Action) -> bool:
    """Whether a new mount is built for it; an interrupted replacement may do without."""
    return action.verb in ("mount", "replace") and not action.beneath


def _left(action: Action) -> Outcome:
    """What nothing is done about: it is as it was, or can't be helped now."""
    return Outcome(action, action.state, action.fault)


def _stopped(action: Action, fault: Fault) -> Outcome:
    return Outcome(action, fault.state, fault)
