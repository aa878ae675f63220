"""What the kernel answered → a fault, with what is in force here."""

from mountd.core.model import Fault
from mountd.core.words import faults
from mountd.kernel.limits import hint_of


def fault_of(error: OSError, trying: str) -> Fault:
    """The fault of an error that has no sentence of its own; `trying` completes "can't …"."""
    return faults.from_kernel(error, trying, hint_of(error))
