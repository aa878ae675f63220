"""An exception → a fault: what failed, what is in force here, what to do. Only this makes one."""

from mountd.core.model import Fault
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.limits import hint_of, hint_on
from mountd.kernel.patience import PATIENCE
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
    return faults.from_kernel(error, trying, hint_of(error))


def unanswered(error: OSError, *places: *tuple[str, str]) -> Fault:
    """The fault of a look at two places that failed as a whole: mostly a server is silent."""
    return fault_of(error, f"look at {' or '.join(places)}", places)
