"""Why a mount that is there is in the way, or can't go."""

import errno as _errno

from mountd.core.model import Fault
from mountd.core.words.faults import (
    _PATH_MAX,
)


def covered_above(target: str) -> Fault:
    message = f"this volume's mount at {target} can't be reached: a mount covers a folder above it"
    return Fault(
        "conflict", "foreign-mount", message, f"`findmnt --target {target}` names it; unmount it"
    )


def just_mounted(target: str) -> Fault:
    message = f"something was mounted at {target} just now"
    return Fault("conflict", "foreign-mount", message, "the next pass looks at what it is")


def volume_below_recursive(point: str) -> Fault:
    message = f"a recursive volume in place would take the volume at {point} for its source's"
    hint = "leave `recursive` out, or choose another target for one of them"
    return Fault("conflict", "foreign-mount", message, hint)


def busy_below(target: str, point: str) -> Fault:
    message = f"the mount at {point} could not be unmounted, and mounting {target} would hide it"
    return Fault("conflict", "foreign-mount", message, f"free {point}; the next pass tries again")


def unbindable(source: str) -> Fault:
    return Fault(
        "failed",
        "mount-refused",
        f"{source} lies on a mount that can't be cloned: it is unbindable, or (in a container) the"
        " host's",
        f"`mount --make-private` what `findmnt --target {source}` shows",
        _errno.EINVAL,
    )


def automount_fails(path: str, point: str, errno: int, said: str) -> Fault:
    """`path` is `point`, or lies below it; `errno` is the kernel's answer to who entered it."""
    if errno == _errno.ELOOP:  # after 40 tries, each of which was a success elsewhere
        return Fault(
            "failed",
            "mount-refused",
            f"{point} is a copy of an automount (autofs): what that mounts lies on the original"
            " alone",
            "name the original as the source; if that is in another mount namespace, have its"
            " mounts propagate to this one",
            errno,
        )
    to = "" if path == point else f" for {path}"
    message = f"the automount (autofs) at {point} mounts nothing{to}: {said}"
    return Fault("failed", "mount-refused", message, _why_not(point), errno)


def automount_is_empty(path: str, point: str) -> Fault:
    to = "" if path == point else f", to which {path} leads"
    message = f"nothing is mounted on the automount (autofs) at {point}{to}"
    return Fault("failed", "mount-refused", message, _why_not(point))


def asleep(point: str) -> str:
    """A note; `point` is where it comes to lie below the target."""
    return f"without what belongs at {point}: nothing is mounted on the automount there"


def _why_not(point: str) -> str:
    said = "or its automounter's log, may say why"
    return f"`systemctl status {point}`, {said}; the next pass asks again"


def foreign_mount(target: str, fs_type: str, *, covers: bool) -> Fault:
    verb = "covers this volume's mount at" if covers else "is at"
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount that isn't mountd's ({fs_type}) {verb} {target}",
        f"`umount {target}`, or choose another target",
    )


def another_went(target: str) -> Fault:
    message = (
        f"somebody mounted something over {target} just when this volume's mount was to go, and"
        " that was taken off instead"
    )
    hint = "find out who mounts there; the next pass takes this volume's own mount off"
    return Fault("conflict", "foreign-mount", message, hint)


def perhaps_ours(target: str) -> Fault:
    message = (
        f"the mount at {target} shows the same folder that it covers, with other flags or another"
        " owner: it may be mountd's own, from before the record was lost"
    )
    return Fault("conflict", "foreign-mount", message, f"if so, `umount {target}`")


def hidden_source(target: str) -> Fault:
    message = f"the folder at {target} can't be seen: this volume's old mount hides it, and stays"
    hint = "see why nothing is unmounted in this pass; the next one tries again"
    return Fault("pending", "no-source", message, hint)


def managed_elsewhere(target: str, volume: str, manifest: str) -> Fault:
    message = f"volume `{volume}` of {manifest} is mounted at {target}"
    hint = f"`mountd --manifest {manifest} unmount {volume}`, or choose another target"
    return Fault("conflict", "foreign-mount", message, hint)


def same_target(target: str, volume: str) -> Fault:
    message = f"the target leads to {target}, which is volume `{volume}`'s"
    return Fault("conflict", "foreign-mount", message, "give one of them another target")


def mount_below(point: str, fs_type: str) -> Fault:
    hint = f"`umount {point}`, or choose another target"
    if len(point) >= _PATH_MAX:
        hint = "choose another target: its path is longer than umount(8) takes"
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount lies below the target, at {point} ({fs_type}), and would be hidden",
        hint,
    )


def busy(target: str, holders: list[str], unseen: str | None = None) -> Fault:
    """`unseen`: why there may be more of them."""
    who = ", ".join(holders[:5]) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")
    if not holders:
        hint = f"some process has it open, or a namespace has a copy of it: `lsof +f -- {target}`"
    elif holders[0].startswith(A_MOUNT):
        hint = f"`umount {holders[0].removeprefix(A_MOUNT)}`; the next pass tries again"
    else:
        hint = "have them leave the folder and close its files; the next pass tries again"
    said = f"{target} is in use" + (f" by {who}" if who else "") + _and_perhaps_more(unseen)
    return Fault("failed", "busy", said, hint, _errno.EBUSY)


def _and_perhaps_more(unseen: str | None) -> str:
    return f"; there may be others, for {unseen}" if unseen else ""


A_MOUNT = "the mount at "
"""How one who holds another begins, if it is a mount."""


def not_moved(volume: str, point: str, why: Fault) -> Fault:
    message = f"the old mount at {point} stays: `{volume}` could not be mounted at its new target"
    return Fault("failed", why.code, message, f"fix volume `{volume}` first", why.errno)


def busy_writers(target: str, writers: list[str], unseen: str | None = None) -> Fault:
    who = f" ({', '.join(writers[:5])})" if writers else ""
    who += _and_perhaps_more(unseen)
    return Fault(
        "failed",
        "busy",
        f"{target} can't be made read-only while files on it are open for writing{who}",
        "have them closed; the next pass tries again",
        _errno.EBUSY,
    )


def keeps_being_undone(target: str) -> Fault:
    return Fault(
        "failed",
        "busy",
        f"someone keeps taking off or changing the mount at {target}: it is put back ever more "
        "rarely, every 5 minutes in the end",
        "find out who, with `journalctl` or `ps`, and stop that; or take the volume out of the "
        "manifest",
    )


def mount_limit(target: str, limit: str) -> Fault:
    """`limit`: what to raise."""
    # ENOSPC of move_mount has nothing to do with disks
    message = f"{target}: this mount namespace has as many mounts as the kernel allows"
    return Fault("failed", "limit", message, limit, _errno.ENOSPC)
