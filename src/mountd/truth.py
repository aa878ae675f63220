"""Whether a served filesystem shows the owner that it must: asked anew, for its server may lie.

Some servers make up the owner for whoever asks. An idmapped mount of theirs is accepted, and yet
shows somebody else, as soon as what the kernel remembers is out of date.
"""

from mountd.core import faults, idmap_faults
from mountd.core.faults import VolumeError
from mountd.core.model import DesiredMount, Ids
from mountd.core.obstacle import has_server
from mountd.kernel.clone import Tree
from mountd.kernel.syscalls import AT_STATX_FORCE_SYNC, Fd, statx
from mountd.patience import PATIENCE, Looker, Patience


def see_owner(tree: Tree, wanted: DesiredMount, patience: Patience) -> None:
    """Ask the server of a detached mount for its root's owner, if it has one and is idmapped.

    Raises VolumeError where that is another than wanted, or no answer comes; the tree is closed
    then.
    """
    if not (wanted.idmap and has_server(wanted.fs_type)):
        return
    looker = Looker[Fd, Ids | None](patience, _owner, lambda _: None, key=lambda _: wanted.source)
    try:
        (shown,) = looker.look_at([tree.fd])
        if shown is None:
            fault = faults.not_answering(wanted.source, wanted.target, PATIENCE)
            raise VolumeError(fault)
        if shown != wanted.shown:
            raise VolumeError(idmap_faults.idmap_untrue(wanted.fs_type, wanted.shown, shown))
    except BaseException:
        tree.fd.close()
        raise


def _owner(tree: Fd) -> Ids:
    found = statx(tree, flags=AT_STATX_FORCE_SYNC)
    return Ids(found.uid, found.gid)
