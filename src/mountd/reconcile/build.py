"""Building a volume's new mount, detached: for a pass to attach it, for a preview to know of it.

So both find the same faults, and report them in the same words.
"""

from collections.abc import Sequence

from mountd.core.actions import Action
from mountd.core.desired import DesiredMount
from mountd.core.model import Fault, Ids
from mountd.core.mounts import Observed
from mountd.core.named_tuple import NamedTuple
from mountd.core.plan import needs_gap_in_place
from mountd.core.served import has_server
from mountd.core.words import faults, idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.attach import try_flags
from mountd.kernel.cause import fault_of
from mountd.kernel.clone import Tree, build
from mountd.kernel.errands import Errands
from mountd.kernel.files import statx
from mountd.kernel.making import why_not_makeable
from mountd.kernel.paths import open_path, spot, spot_below
from mountd.kernel.patience import Patience
from mountd.kernel.syscalls import AT_STATX_FORCE_SYNC, Fd
from mountd.reconcile.desired import place_of_volume
from mountd.reconcile.idmaps import Namespaces


class Built(NamedTuple):
    """A new mount as it was built: with raw ids, if the filesystem maps untruly."""

    tree: Tree
    mount: DesiredMount


class Builder:
    """Builds the mounts of one round, each of the source that its resolver opened."""

    def __init__(self, namespaces: Namespaces, sources: dict[str, Fd]) -> None:
        self._namespaces = namespaces
        self._sources = sources

    def build(self, wanted: DesiredMount) -> Built:
        """The detached mount. Raises VolumeError, or OSError as the kernel does."""
        with self._source(wanted) as source:
            try:
                return Built(self._true(source, wanted), wanted)
            except VolumeError as error:
                if error.fault.code != "idmap-untrue" or wanted.volume.fallback == "fail":
                    raise
                wanted = wanted.with_raw_ids(error.fault)
                return Built(self._true(source, wanted), wanted)

    def let_go(self, volume: str) -> None:
        """Close a volume's source: what is open can't be taken off."""
        self._sources.pop(volume).close()

    def _true(self, source: Fd, wanted: DesiredMount) -> Tree:
        tree = build(source, wanted, self._namespaces.of(wanted))
        _see_owner(tree, wanted)
        return tree

    def _source(self, wanted: DesiredMount) -> Fd:
        """The source as it was resolved: still open, or opened again and found to be the same."""
        if source := self._sources.pop(wanted.volume.name, None):
            return source
        source, _ = open_path(wanted.source)
        found = statx(source)
        if (found.device, found.inode) != (wanted.device, wanted.inode):
            source.close()
            raise VolumeError(faults.moved_meanwhile(wanted.source))
        return source


def _see_owner(tree: Tree, wanted: DesiredMount) -> None:
    """Ask the server of a detached mount for its root's owner, if it has one and is idmapped.

    Some servers report the asking user as the owner, once the kernel's cache expires: they accept
    an idmapping and then show somebody else. Raises VolumeError where that is another than wanted,
    and TimeoutError where no answer comes; the tree is closed then.
    """
    if not (wanted.idmap and has_server(wanted.fs_type)):
        return
    try:
        found = statx(tree.fd, flags=AT_STATX_FORCE_SYNC)
        shown = Ids(found.uid, found.gid)
        if shown != wanted.choice.shown:
            raise VolumeError(idmap_faults.idmap_untrue(wanted.fs_type, wanted.choice.shown, shown))
    except BaseException:
        tree.fd.close()
        raise


def foresee(
    actions: Sequence[Action], observed: Observed, builder: Builder, patience: Patience
) -> dict[str, DesiredMount | Fault]:
    """By volume, the mount or the fault that building leads to, where it isn't what was planned.

    Each mount is built and closed again: nobody else sees it, and nothing is changed.
    """
    errands = Errands(patience)
    found: dict[str, DesiredMount | Fault] = {}
    for action in actions:
        wanted = action.mount
        if wanted is None or action.beneath or needs_gap_in_place(wanted, observed):
            continue
        try:
            with errands.of(place_of_volume(wanted.volume)):
                if action.verb == "adjust" and action.old:
                    with spot(action.target) as found_at:
                        try_flags(found_at, action.old.id, wanted)
                elif action.builds:
                    built = builder.build(wanted)
                    with built.tree.fd as root:
                        comes_to = _with_points(built.mount, root, action)
                    if comes_to != wanted:
                        found[action.volume] = comes_to
        except (VolumeError, OSError) as error:
            served = action.source, action.target
            found[action.volume] = fault_of(error, f"{action.verb} {action.target}", served)
    return found


def _with_points(mount: DesiredMount, root: Fd, action: Action) -> DesiredMount:
    """The mount, with a note of what is made in it for our mounts that come along."""
    makes: dict[str, None] = {}
    for point, _ in action.carried:
        with spot_below(root, mount.target, point[len(mount.target) + 1 :]) as found:
            if found.missing and (fault := why_not_makeable(found)):
                raise VolumeError(fault)
            makes |= dict.fromkeys(found.missing)
    return mount._replace(notes=(*mount.notes, f"makes {', '.join(makes)}")) if makes else mount
