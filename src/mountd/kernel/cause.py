"""An exception → a fault: what failed, what is in force here, what to do. Only this makes one."""

import os
from errno import EACCES

from mountd.core.model import Fault
from mountd.core.mounts import mount_at
from mountd.core.served import has_server
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.limits import hint_of, hint_on
from mountd.kernel.observe import observe, user_behind
from mountd.kernel.patience import PATIENCE
from mountd.kernel.privileges import how_to_have, missing_capabilities
from mountd.kernel.probe import why_no_namespace
from mountd.kernel.served import NoChildError
from mountd.kernel.trusted import UnsafeLinkError
from mountd.kernel.userns import UserNamespaceError


def fault_of(
    error: VolumeError | OSError, trying: str, served: tuple[str, str] | None = None
) -> Fault:
    """The fault of whatever stopped a step; `trying` completes "can't …".

    `served`: the two places that the step goes to, where a server may keep it waiting.
    """
    match error:
        case VolumeError():
            return error.fault
        case UnsafeLinkError():
            return faults.unsafe_link(error.filename, error.strerror or "")
        case UserNamespaceError():
            return why_no_namespace(error)
        case TimeoutError() if served:
            return faults.not_answering(*served, PATIENCE)
        case NoChildError() if served:
            return faults.no_process(*served, error.strerror or "", hint_on("threads"))
        case PermissionError() if served and error.errno == EACCES:
            if os.geteuid():
                return faults.not_visible(error)
            made_on = getattr(error, "made_on", "")
            return faults.shut(error, trying, let_in(*([made_on] if made_on else served)))
    return faults.from_kernel(error, trying, hint_of(error))


def let_in(*places: str) -> str:
    """The hint to have root let into places that it may not look into."""
    if missing := missing_capabilities(["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]):
        return how_to_have(*missing)
    mounts = observe().mounts
    for place in places:
        mount = mount_at(place, mounts)
        if mount and has_server(mount.fs_type):
            if user := user_behind(mount.id, alone=True):
                return faults.private_fuse(mount.point, user)
            return faults.refusing_server(mount.point, mount.fs_type)
    return faults.SHUT_BY_MODULE


def unanswered(error: OSError, *places: *tuple[str, str]) -> Fault:
    """The fault of a look at two places that failed as a whole: mostly a server is silent."""
    return fault_of(error, f"look at {' or '.join(places)}", places)
