"""Every way in which a volume falls short, as a person reads it: what is wrong, and what to do.

One function for each, so that all sentences can be read, and mended, in one sitting; those of
idmappings and of filesystems are in modules of their own.
"""

import errno as _errno

from mountd.core.model import Fault, Ids, Kind, Reason
from mountd.core.mounts import Managed
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.commands import mountd, shell

PASSING = (_errno.EMFILE, _errno.ENFILE, _errno.ENOMEM)
"""What says nothing of a file or folder, but that this process or machine has no room now."""


class VolumeError(Exception):
    """One volume can't be as desired; the others go on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault

    def __reduce__(self) -> tuple[type["VolumeError"], tuple[Fault]]:
        return type(self), (self.fault,)


class Limit(NamedTuple):
    """What sets a limit, and the number that is in force here; None where it can't be read."""

    knob: str
    value: int | None


def raising(*limits: Limit) -> str:
    """The hint to raise a limit; of several, one of which was reached, any may be it."""
    each = (knob if value is None else f"{knob}, which is {value}" for knob, value in limits)
    return f"raise {', or '.join(each)}"


def no_source(path: str) -> Fault:
    return Fault("pending", "no-source", f"there is no {path}", MOUNTED_LATER)


MOUNTED_LATER = "the first pass that finds it mounts the volume"
"""What to do where the only thing to do is to wait."""


def no_target(path: str) -> Fault:
    hint = "make it, or leave `create = false` out"
    return Fault("pending", "no-target", f"there is no {path}, and `create` is false", hint)


def not_as_owner(folder: str, owner: Ids, missing: list[str]) -> Fault:
    message = f"the target can't be made: {folder} belongs to {owner}, as whom mountd can't act: "
    if missing:
        names = " and ".join(missing)
        message += f"{names} {'is' if len(missing) == 1 else 'are'} missing"
        hint = f"make the target by hand, or give the unit or the container {names}"
    else:
        message += "this user namespace doesn't know these ids"
        hint = "make the target by hand, or map these ids into the container"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def not_writable_by_owner(folder: str, uid: int) -> Fault:
    hint = "make the target by hand, or let its owner write there"
    message = f"the target can't be made: {folder} belongs to uid {uid}, who may not write there"
    return _unmade("no-target", message, hint, _errno.EACCES, folder)


def read_only_above(folder: str) -> Fault:
    message = f"the target can't be made: {folder} is on a read-only filesystem"
    hint = "make it beforehand, or choose a place that can be written"
    return _unmade("read-only-filesystem", message, hint, _errno.EROFS, folder)


def immutable(folder: str) -> Fault:
    message = f"the target can't be made: {folder} is immutable, so nothing can be made in it"
    hint = f"{shell('chattr', '-i', folder)}, or choose another target"
    return _unmade("no-target", message, hint, _errno.EPERM, folder)


def name_too_long(target: str, most: int) -> Fault:
    message = f"the target can't be made: {target} has a name of more than {most} bytes"
    hint = "choose a target with shorter names"
    return _unmade("no-target", message, hint, _errno.ENAMETOOLONG, target)


def _unmade(code: Reason, message: str, hint: str, errno: int, place: str) -> Fault:
    return Fault("failed", code, message, hint, errno, step="make the target", object=place)


def no_home(name: str, home: str, *, has_account: bool) -> Fault:
    """`has_account`: what makes it is another command then."""
    message = f"{name}'s home isn't there yet: there is no {home}"
    if has_account:
        hint = f"{shell('mkhomedir_helper', name)} makes it, with its files"
    else:
        hint = (
            f"{shell('useradd', '-m', name)} makes it, with its files; {shell('mkdir', home)} if it"
            " is nobody's"
        )
    return Fault("pending", "no-target", message, f"{hint}; {MOUNTED_LATER}", object=home)


def no_user(name: str, file: str) -> Fault:
    add = shell("useradd", name) if file == "/etc/passwd" else "add it there"
    hint = f"{add}, or give `user` as a number"
    return Fault("pending", "no-user", f"there is no user `{name}` in {file}", hint)


def no_group(name: str, file: str) -> Fault:
    add = shell("groupadd", name) if file == "/etc/group" else "add it there"
    hint = f"{add}, or give the group as a number"
    return Fault("pending", "no-group", f"there is no group `{name}` in {file}", hint)


def unsafe_link(path: str, why: str) -> Fault:
    hint = "write the path that the link leads to, or have root make the link where only root can"
    return Fault("failed", "unsafe-path", f"{path} is a link that {why}", hint)


def unsafe_file(why: str) -> Fault:
    hint = "check that root owns it and the folders above it, and that nobody else can write them"
    return Fault("failed", "unsafe-path", why, hint)


def not_a_file(path: str, kind: str) -> Fault:
    return Fault("failed", "io", f"{path} is {kind}, not a file", "put a file in its place")


def too_many_accounts(path: str, most: int) -> Fault:
    message = f"{path} is larger than {most} MiB, and no names are looked up in so much"
    hint = "give `user` as `uid:gid`, or have `accounts` name a root filesystem with less"
    return Fault("failed", "limit", message, hint, _errno.EFBIG)


def forbidden_target(path: str, why: str) -> Fault:
    return Fault(
        "failed",
        "unsafe-path",
        f"the target leads to {path}, which is {why}",
        "choose a folder of its own",
    )


def moved_meanwhile(path: str) -> Fault:
    hint = "it or a folder above it was renamed or removed just now; the next pass looks anew"
    return Fault("failed", "unsafe-path", f"{path} led elsewhere while it was being mounted", hint)


def too_deep() -> Fault:
    message = "this volume's mount can't be reached: a folder above it was moved to where its path"
    message += " is longer than 1 MiB"
    hint = "move that folder back; /proc/self/mountinfo has its path"
    return Fault("failed", "unsafe-path", message, hint, _errno.ENAMETOOLONG)


def waits_for(volume: str, why: Fault) -> Fault:
    """`why` may itself be that the volume waits for another: a chain is told by its two ends."""
    last, said = why.blocked_by or (volume, why.message)
    behind = f", which waits for `{last}`" if last != volume else ""
    message = f"volume `{volume}` has to be in place first{behind}: {said}"
    hint = f"fix volume `{last}` first"
    return Fault("pending", why.code, message, hint, blocked_by=(last, said))


_MOST_NAMED = 10


def never_ready(after: tuple[str, ...]) -> Fault:
    message = f"it has to wait until {', '.join(after)}, which doesn't come about in this pass"
    return Fault("pending", "busy", message, "see what stops the other volumes")


def in_circle(volumes: tuple[str, ...]) -> Fault:
    names = ", ".join(f"`{each}`" for each in volumes[:_MOST_NAMED])
    names += f" and {len(volumes) - _MOST_NAMED} more" * (len(volumes) > _MOST_NAMED)
    message = f"volumes {names} need each other in a circle, once links are followed"
    return Fault("conflict", "foreign-mount", message, "move one of their sources or targets")


def target_in_source(target: str) -> Fault:
    message = f"the target {target} lies in its own source, and `recursive` would include it there"
    hint = "leave `recursive` out, or choose a target outside"
    return Fault("failed", "mount-refused", message, hint)


def wrong_source_kind(path: str, kind: str) -> Fault:
    folder = path.rpartition("/")[0] or "/"
    hint = f"name the folder that it lies in, {folder}, as the source"
    message = f"{path} is {kind}, and mountd mounts folders and files alone"
    return Fault("failed", "wrong-kind", message, hint)


def wrong_target_kind(target: str, kind: Kind, mounted: Managed | None) -> Fault:
    """`mounted`: what of ours is at the target now, of the other kind."""
    message = f"the source is a {kind}, and {target} is not"
    hint = f"remove {target}, or choose another target"
    if mounted:
        message += ", nor is what this volume's mount lies on there"
        hint = f"{mountd('unmount', mounted.volume)}, then {hint}"
    return Fault("failed", "wrong-kind", message, hint)


def no_folder(target: str) -> Fault:
    message = f"{target} can't be made: something above it is not a folder"
    return Fault("failed", "wrong-kind", message, "choose another target")


_PATH_MAX = 4096


def not_answering(source: str, target: str, seconds: float) -> Fault:
    return Fault(
        "failed",
        "not-answering",
        f"no answer within {seconds:g} s from {source} (or {target})",
        "see whether the server behind it (FUSE, NFS, virtiofs) is alive; the next pass asks again",
    )


def no_process(source: str, target: str, said: str, hint: str) -> Fault:
    """`hint`: what may be in the way, with the number that is in force."""
    message = (
        f"{source} or {target} lies on a server, which only a process of its own may wait for, and"
        f" none can be started: {said}"
    )
    return Fault("failed", "limit", message, hint)


CODES: dict[int, Reason] = {
    _errno.EMFILE: "limit",
    _errno.ENFILE: "limit",
    _errno.EROFS: "read-only-filesystem",
}


def from_kernel(error: OSError, trying: str, limit: str | None) -> Fault:
    """What the kernel said to something that has no sentence of its own.

    `trying` completes "can't …"; the error's text names the call and its object. `limit`: what to
    raise, where a limit was reached. Callers go by kernel/cause.py, which knows that.
    """
    code = "limit" if limit else CODES.get(error.errno or 0, "io")
    if error.errno in (_errno.EPERM, _errno.EACCES):
        code = "not-privileged"
    hint = limit or _HINTS.get(error.errno or 0, _ANY_HINT)
    said = error.strerror or str(error)
    name = error.filename
    where = f" ({name})" if name and str(name) not in trying else ""
    return Fault(
        "failed",
        code,
        f"can't {trying}: {said}{where}",
        hint,
        error.errno or 0,
        step=getattr(error, "call", trying),
        object=getattr(error, "made_on", str(name or "")),
    )


_ANY_HINT = "`mountd check --system` tells what is allowed here, and `dmesg` may say more"
_NO_ROOM = "make room on the filesystem (`df` and `df -i` show it), or raise the quota there"
_HINTS = {
    _errno.EROFS: "choose a place that can be written, or make it there beforehand",
    _errno.ENOSPC: _NO_ROOM,
    _errno.EDQUOT: _NO_ROOM,
    _errno.ENOTCONN: "the server behind it is gone: unmount it, and start the server again",
}


def unwritable_record(error: OSError, limit: str | None) -> Fault:
    """`limit`: what to raise, where one was reached that is none of the filesystem's."""
    said = error.strerror or str(error)
    is_full = error.errno in (_errno.ENOSPC, _errno.EDQUOT)
    code = "limit" if is_full else CODES.get(error.errno or 0, "io")
    remedy = limit or "make room, or fix the state directory"
    hint = f"nothing is mounted that can't be recorded; {remedy}"
    return Fault("failed", code, f"the record can't be written: {said}", hint, error.errno or 0)


def not_visible(error: OSError) -> Fault:
    said = error.strerror or str(error)
    hint = "run it as root to see what root would do"
    return Fault(
        "failed", "not-privileged", f"you may not look there: {said}", hint, error.errno or 0
    )


def shut(error: OSError, trying: str, hint: str) -> Fault:
    """What root isn't let into, or this process is not as root; `trying` completes "can't …"."""
    return from_kernel(error, trying, None)._replace(hint=hint)


def private_fuse(point: str, user: int) -> str:
    """A hint: of `user` is the FUSE mount at `point`."""
    return (
        f"have uid {user} mount the FUSE filesystem at {point} with the option `allow_other`, which"
        " takes `user_allow_other` in /etc/fuse.conf"
    )


def refusing_server(point: str, fs_type: str) -> str:
    """A hint: what is mounted at `point` asks a server."""
    return (
        f"have the server behind {point} ({fs_type}) let root in, as NFS does by `no_root_squash`"
    )


SHUT_BY_MODULE = "a security module may refuse it: `journalctl -k` shows AppArmor's and SELinux's"
