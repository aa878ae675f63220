"""Why a mount that is there is in the way, or can't go."""

import errno as _errno
from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile

from mountd.core.model import Fault
from mountd.core.mounts import TOO_DEEP, Forest, Managed, ObservedMount
from mountd.core.words.commands import mountd, shell
from mountd.core.words.faults import (
    _PATH_MAX,
)

Ours = Mapping[int, Managed]
"""Mounts of ours by their ids, submounts too: no umount(8) for these."""


def _taking_off(mounts: Sequence[ObservedMount], ours: Ours) -> str | None:
    """The commands that take these off, in their order; None where umount(8) can't.

    What is ours goes by a command of ours, which takes submounts along.
    """
    points = [each.point for each in mounts if each.id not in ours]
    if any(point == TOO_DEEP or len(point) >= _PATH_MAX for point in points):
        return None
    steps: list[str] = []
    for managed, group in groupby(mounts[:_MOST_MOUNTS], lambda each: ours.get(each.id)):
        step = shell("umount", *(each.point for each in group))
        if managed:
            step = mountd("unmount", managed.volume, manifest=managed.manifest)
        if not managed or step not in steps:  # with its submounts it goes at once
            steps.append(step)
    more = "; the next pass names the others" if len(mounts) > _MOST_MOUNTS else ""
    return ", then ".join(steps) + more


_MOST_MOUNTS = 20


def _unless_moved(steps: str | None) -> str:
    """The hint to take mounts off, or else to give way to them."""
    if steps is None:
        return "choose another target: a path is longer than umount(8) takes"
    return f"{steps}, or choose another target"


def covered_above(target: str, mount: int, forest: Forest, ours: Ours) -> Fault:
    covers = forest.covers_of(mount)
    message = f"this volume's mount at {target} can't be reached: "
    if not covers:  # they went meanwhile
        message += "a mount covered a folder above it just now"
        return Fault("conflict", "foreign-mount", message, "the next pass looks anew")
    message += f"the mount at {covers[0].point} ({covers[0].fs_type}) covers it"
    hint = _taking_off(forest.to_take_off(covers), ours)
    hint = hint or "move a folder above that, whose path is longer than umount(8) takes"
    return Fault("conflict", "foreign-mount", message, hint)


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


def unbindable(source: str, point: str) -> Fault:
    """`point`: where the mount is that it lies on."""
    message = f"{source} can't be mounted elsewhere: the mount at {point} is unbindable"
    hint = shell("mount", "--make-private", point)
    return Fault("failed", "mount-refused", message, hint, _errno.EINVAL)


def not_cloned(source: str) -> Fault:
    message = f"{source} can't be mounted elsewhere: its mount is another mount namespace's"
    hint = "have it mounted in this one (in a container, by whoever starts that)"
    return Fault("failed", "mount-refused", message, hint, _errno.EINVAL)


def locked_below(source: str, points: list[str]) -> Fault:
    more = f" and {len(points) - 1} more" if len(points) > 1 else ""
    message = (
        f"{source} can't be mounted without the mounts below it ({points[0]}{more}): they came into"
        " this user namespace together, and what they cover is hidden from it"
    )
    hint = "set `recursive = true`, which includes them"
    return Fault("failed", "mount-refused", message, hint, _errno.EINVAL)


def locked_flags(source: str, keys: list[str]) -> Fault:
    said = " and ".join(f"`{each}`" for each in keys)
    message = (
        f"{source} can't be mounted with {said}: this user namespace was given it otherwise, and"
        " may not change that"
    )
    hint = f"leave {said} out, or have it mounted so outside of the user namespace"
    return Fault("failed", "mount-refused", message, hint, _errno.EPERM)


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
    return f"{shell('systemctl', 'status', point)}, {said}; the next pass asks again"


def foreign_mount(
    target: str, top: ObservedMount, forest: Forest, ours: Ours, *, covers: bool
) -> Fault:
    """`top` is what shows there; what it lies on is in the way too, down to a mount of ours."""
    verb = "covers this volume's mount at" if covers else "is at"
    stack = takewhile(lambda each: each.id not in ours, forest.stack_at(top))
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount that isn't mountd's ({top.fs_type}) {verb} {target}",
        _unless_moved(_taking_off(forest.to_take_off(stack), ours)),
    )


def copy_at(target: str, volume: str, at: str) -> Fault:
    message = (
        f"the mount of volume `{volume}` at {at} shows at {target} too: mounts propagate there"
    )
    hint = "choose another target, or leave one of the two volumes out"
    return Fault("conflict", "foreign-mount", message, hint)


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
    return Fault("conflict", "foreign-mount", message, f"if so, {shell('umount', target)}")


def hidden_source(target: str) -> Fault:
    message = f"the folder at {target} can't be seen: this volume's old mount hides it, and stays"
    hint = "see why nothing is unmounted in this pass; the next one tries again"
    return Fault("pending", "no-source", message, hint)


def managed_elsewhere(target: str, volume: str, manifest: str) -> Fault:
    message = f"volume `{volume}` of {manifest} is mounted at {target}"
    unmount = mountd("unmount", volume, manifest=manifest)
    hint = f"{unmount}, or choose another target"
    return Fault("conflict", "foreign-mount", message, hint)


def same_target(target: str, volume: str) -> Fault:
    message = f"the target leads to {target}, which is volume `{volume}`'s"
    return Fault("conflict", "foreign-mount", message, "give one of them another target")


def mount_below(strangers: Sequence[ObservedMount], forest: Forest, ours: Ours) -> Fault:
    first, *others = strangers
    more = f" and {len(others)} more" if others else ""
    deepest = sorted(strangers, key=lambda each: -each.point.count("/"))
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount lies below the target, at {first.point} ({first.fs_type}){more}, and would be"
        " hidden",
        _unless_moved(_taking_off(forest.to_take_off(deepest), ours)),
    )


def busy(target: str, holders: list[str], unseen: str | None = None) -> Fault:
    """`unseen`: why there may be more of them."""
    who = ", ".join(holders[:5]) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")
    points = [each.removeprefix(A_MOUNT) for each in holders if each.startswith(A_MOUNT)]
    steps = [shell("umount", "--recursive", *points[:_MOST_MOUNTS])] if points else []
    if len(holders) > len(points):
        them = "the processes" if points else "them"
        steps.append(f"have {them} leave the folder and close its files")
    hint = f"{', and '.join(steps)}; the next pass tries again"
    if not holders:
        lsof = shell("lsof", "+f", "--", target)
        hint = f"some process has it open, or a namespace has a copy of it: {lsof}"
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
