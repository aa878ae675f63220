"""Ask the server for the owner again, through the new mount.

Some servers report the asking user as the owner, once the kernel's cache expires: they accept an
idmapping and then show somebody else.
"""

from mountd.core.desired import DesiredMount
from mountd.core.model import Ids
from mountd.core.served import has_server
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.clone import Tree
from mountd.kernel.files import statx
from mountd.kernel.syscalls import AT_STATX_FORCE_SYNC


def see_owner(tree: Tree, wanted: DesiredMount) -> None:
    """Ask the server of a detached mount for its root's owner, if it has one and is idmapped.

    Raises VolumeError where that is another than wanted, and TimeoutError where no answer comes;
    the tree is closed then.
    """
    if not (wanted.idmap and has_server(wanted.fs_type)):
        return
    try:
        found = statx(tree.fd, flags=AT_STATX_FORCE_SYNC)
        shown = Ids(found.uid, found.gid)
        if shown != wanted.shown:
            raise VolumeError(idmap_faults.idmap_untrue(wanted.fs_type, wanted.shown, shown))
    except BaseException:
        tree.fd.close()
        raise
