"""Reading a file that root is going to act on: safely, whole, and never more than is sensible."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from errno import EAGAIN, EFBIG, ELOOP, ENAMETOOLONG, ENOTCONN, ENOTDIR
from fcntl import F_RDLCK, F_SETLEASE, F_SETSIG, F_UNLCK, fcntl
from signal import SIGURG

from mountd.core.words.faults import PASSING
from mountd.kernel.errands import ask
from mountd.kernel.limits import hint_of, hint_on
from mountd.kernel.patience import PATIENCE
from mountd.kernel.served import NoChildError
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import NotAFileError, UnsafeLinkError, open_trusted
from mountd.manifest.load import MOST_BYTES, Reading, UnreadableError


class BeingSavedError(Exception):
    """A process has the file open for writing, and may not have saved all of it yet."""


def read_patiently(read: Callable[[str], Reading], file: str) -> Reading:
    """What one of the two below reads, also from a server, which may not answer.

    Raises UnreadableError then.
    """
    try:
        return ask(read, file)
    except (TimeoutError, NoChildError) as error:
        raise unanswered_file(error) from error


def unanswered_file(error: OSError) -> UnreadableError:
    """That a server, or the system, didn't let us have a file."""
    if isinstance(error, TimeoutError):
        said = f"no answer within {PATIENCE:g} s"
        hint = "see whether the server behind it (FUSE, NFS, virtiofs) is alive"
    else:
        said = (
            "it lies on a server, which only a process of its own may wait for, and none can be"
            f" started: {error.strerror}"
        )
        hint = hint_on("threads")
    return UnreadableError(said, hint, is_withheld=True, is_silent=True)


def read_manifest(file: str) -> Reading:
    """A manifest's bytes, and who but root could have written them; a link to /dev/null has none.

    Raises UnreadableError, in words; OSError as in `PASSING`, which says nothing of the file.
    """
    return _read(file, sees_savers=False)


def read_saved_manifest(file: str) -> Reading:
    """The same. Raises BeingSavedError too, as far as filesystems tell."""
    return _read(file, sees_savers=True)


def _read(file: str, *, sees_savers: bool) -> Reading:
    try:
        # through a ConfigMap's folder, say, which is 1777
        opened, distrusts = open_trusted(file, may_lead_through_sticky=True)
        with opened, _unwritten(opened) if sees_savers else nullcontext():
            return Reading(read_bounded(opened, MOST_BYTES), tuple(distrusts))
    except UnsafeLinkError as error:
        said = f"{error.filename} is a link that {error.strerror}"
        raise UnreadableError(said, "put the file itself there") from error
    except NotAFileError as error:
        if os.path.realpath(file) == os.devnull:  # as systemd masks a file
            return Reading(b"", (), is_null=True)
        said = f"it is {error.strerror}, not a file"
        raise UnreadableError(said, "put a TOML file there, or take it away") from error
    except FileNotFoundError as error:
        raise _missing(file, error.filename or file) from error
    except PermissionError as error:
        hint = "run mountd as root" if os.geteuid() else _LET_ROOT_READ
        raise UnreadableError("you may not read it", hint, is_withheld=True) from error
    except OSError as error:
        if error.errno in PASSING:
            raise
        if error.errno == EFBIG:
            said = f"it is {error.strerror}, which no manifest needs"
            raise UnreadableError(said, "put what belongs together into drop-ins") from error
        said = f"it can't be read: {os.strerror(error.errno or 0)}"
        hint = hint_of(error) or _HINTS.get(error.errno or 0, _ANY_HINT)
        raise UnreadableError(said, hint, is_withheld=True) from error


_LET_ROOT_READ = (
    "its server, or a security module, refuses root: let root read it, or put a copy elsewhere"
)
_ANY_HINT = "see whether its filesystem is as it should be (`dmesg` may say more), or remove it"
_HINTS = {
    ELOOP: "its links lead in a circle: put the file itself there, or remove the link",
    ENOTDIR: "its link leads through what is no folder: fix that, or remove the link",
    ENAMETOOLONG: "choose a shorter path",
    ENOTCONN: "the server behind it is gone: unmount it, and start the server again",
}


def _missing(file: str, end: str) -> UnreadableError:
    """`end`: what isn't there, where the path leads."""
    if os.path.islink(file):
        hint = f"make {end} anew, have the link lead to a file, or remove the link"
        said = f"it is a link, and there is no {end}"
        return UnreadableError(said, hint, is_missing=True, is_dangling=True)
    said = "there is no such file" if end == file else f"there is no {end}"
    hint = "write it, or name another by --manifest FILE"
    return UnreadableError(said, hint, is_missing=True)


@contextmanager
def _unwritten(file: Fd) -> Iterator[None]:
    """Keep everybody from opening a file for writing. Raises BeingSavedError where one has it open.

    That is a read lease (fcntl(2), F_SETLEASE). Who opens the file meanwhile waits, and we would be
    sent SIGIO, which kills; of SIGURG nobody hears. A filesystem may have no leases.
    """
    try:
        fcntl(file.number, F_SETSIG, SIGURG)
        fcntl(file.number, F_SETLEASE, F_RDLCK)
    except OSError as error:
        if error.errno == EAGAIN:
            raise BeingSavedError from error
        yield
        return
    try:
        yield
    finally:
        fcntl(file.number, F_SETLEASE, F_UNLCK)


def read_bounded(file: Fd, most: int) -> bytes:
    """All of a file, as it is at one moment: an editor that writes in place may be at it just now.

    Raises OSError, with EFBIG where there are more than `most` bytes.
    """
    before = None
    if os.fstat(file.number).st_size > most:
        raise OSError(EFBIG, f"larger than {most >> 20} MiB")
    with open(file.number, "rb", closefd=False) as stream:
        for _ in range(5):
            stream.seek(0)
            content = stream.read(most + 1)
            now = os.fstat(file.number)
            if before == (now.st_size, now.st_mtime_ns) and len(content) == now.st_size:
                break
            before = (now.st_size, now.st_mtime_ns)
    if len(content) > most:
        raise OSError(EFBIG, f"larger than {most >> 20} MiB")
    return content
