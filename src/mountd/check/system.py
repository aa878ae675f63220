"""What the system allows: the kernel's calls, the filesystems mounted here, our privileges."""

import os
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any, Literal

from mountd.core.mounts import ObservedMount
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.faults import VolumeError
from mountd.core.words.printable import printable
from mountd.kernel.files import statx
from mountd.kernel.observe import observe
from mountd.kernel.patience import PATIENCE, Looker, Patience
from mountd.kernel.privileges import (
    is_filtered,
    is_in_user_namespace,
    missing_capabilities,
    shares_mounts_with_init,
    why_no_mount,
)
from mountd.kernel.probe import CALLS, standing, why_no_idmap, why_no_namespace
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd
from mountd.kernel.userns import UserNamespaceError, known_ids, make_user_namespace

Group = Literal["kernel", "filesystems", "privileges"]


class Answer(NamedTuple):
    """Whether something is allowed, None if that can't be told, and what follows if it isn't."""

    allowed: bool | None
    consequence: str | None = None


class Finding(NamedTuple):
    """What the system answers about one thing."""

    group: Group
    name: str
    answer: Answer


_RAW = "mounted with raw ids"
_NOTHING = "nothing can be mounted"
_YES = Answer(allowed=True)
_WITHOUT_CALL = {
    "open_tree": _NOTHING,
    "move_mount": _NOTHING,
    "fsopen": "volumes with a `type` can't be mounted",
    "openat2": f"no path can be walked safely: {_NOTHING}",
    "mount_setattr": _RAW,
    "MOVE_MOUNT_BENEATH": "replacing a mount has a gap",
    "statmount": "mounts are identified by ids that the kernel reuses",
    "listmount": "mounts are identified by ids that the kernel reuses",
    "open_tree_attr": "replacing in place has a gap, and a source that is already idmapped can't"
    " get another idmapping",
}
_WITHOUT_CAPABILITY = {
    "CAP_SYS_ADMIN": f"{_NOTHING} or unmounted",
    "CAP_SETUID": f"{_RAW}; no target is made in a folder that isn't root's",
    "CAP_SETGID": f"{_RAW}; no target is made in a folder that isn't root's",
    "CAP_SETFCAP": _RAW,
    "CAP_DAC_READ_SEARCH": "folders that are closed to us can't be walked",
}


def find_system() -> list[Finding]:
    """What all of it answers, tried where that is permitted; nothing is changed by it."""
    return [
        *(Finding("kernel", name, _call(name)) for name in _WITHOUT_CALL),
        *(Finding("filesystems", *each) for each in _filesystems().items()),
        *(Finding("privileges", *each) for each in _privileges()),
    ]


def _call(name: str) -> Answer:
    effect = _WITHOUT_CALL[name]
    match standing(name):
        case "there":
            return _YES
        case "untold":
            return _untried()
        case "too-old":
            major, minor = CALLS[name].since
            return Answer(allowed=False, consequence=f"{effect} (needs Linux {major}.{minor})")
        case "filtered":
            return Answer(allowed=False, consequence=f"{effect} (a seccomp filter stops it)")
        case "missing":
            return Answer(allowed=False, consequence=f"{effect} (this kernel has none)")


def _untried() -> Answer:
    fault = why_no_mount()
    return Answer(None, f"not tried, {fault.message}" if fault else "not tried")


def _filesystems() -> dict[str, Answer]:
    """For each superblock whether it can be idmapped; those of a type that answer alike are one."""
    superblocks: dict[int, list[ObservedMount]] = {}
    for mount in observe().mounts.values():
        superblocks.setdefault(mount.device, []).append(mount)
    points: dict[tuple[str, Answer], list[str]] = {}
    for mounts, answer in zip(
        superblocks.values(), _idmapped([*superblocks.values()]), strict=True
    ):
        points.setdefault((mounts[0].fs_type, answer), []).append(mounts[0].point)
    return {
        f"{fs_type} at {where[0]}" + (f" and {len(where) - 1} more" if len(where) > 1 else ""): each
        for (fs_type, each), where in points.items()
    }


def _idmapped(superblocks: Sequence[list[ObservedMount]]) -> list[Answer]:
    if why_no_mount():
        return [_untried()] * len(superblocks)
    try:
        with make_user_namespace(known_ids()) as userns:
            looker = Looker[list[ObservedMount], Answer](
                Patience(),
                lambda mounts: _idmapped_one(mounts, userns),
                lambda _, error: Answer(None, _unanswered(error)),
                key=lambda mounts: mounts[0].device,
                needed=userns,
                is_by_child=True,
            )
            return looker.look_at(superblocks)
    except UserNamespaceError as error:
        return [Answer(None, f"not tried, {why_no_namespace(error).message}")] * len(superblocks)


def _unanswered(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:g} s"
    return f"not tried: {error.strerror}"


def _idmapped_one(mounts: Sequence[ObservedMount], userns: Fd) -> Answer:
    """By the first of a superblock's mounts that can be reached and cloned."""
    answer = Answer(None, "not tried: other mounts cover it")
    for mount in mounts:
        try:
            with Fd(os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as root:
                if statx(root, flags=AT_STATX_DONT_SYNC).mount != mount.id:
                    continue
                fault = why_no_idmap(root, mount.fs_type, userns)
                return (
                    Answer(allowed=False, consequence=f"{_RAW}: {fault.message}") if fault else _YES
                )
        except VolumeError as error:
            answer = Answer(allowed=False, consequence=error.fault.message)
        except OSError as error:
            answer = Answer(None, f"not tried: {error.strerror}")
    return answer


def _privileges() -> Iterator[tuple[str, Answer]]:
    missing = missing_capabilities(_WITHOUT_CAPABILITY)
    for name, effect in _WITHOUT_CAPABILITY.items():
        yield name, Answer(allowed=False, consequence=effect) if name in missing else _YES
    try:
        make_user_namespace(known_ids()).close()
        answer = _YES
    except UserNamespaceError as error:
        answer = Answer(allowed=False, consequence=f"{_RAW}: {why_no_namespace(error).message}")
    yield "user namespaces", answer
    effect = f"what the host mounted is {_RAW}, for only the host can idmap it"
    is_inside = is_in_user_namespace()
    yield "host's user namespace", Answer(allowed=False, consequence=effect) if is_inside else _YES
    effect = "no process outside sees what is mounted here"
    yield (
        "mount namespace of pid 1",
        {
            True: _YES,
            False: Answer(allowed=False, consequence=effect),
            None: Answer(None, "pid 1 can't be seen into from here"),
        }[shares_mounts_with_init()],
    )
    effect = "a seccomp filter is active; the calls that it blocks are marked `no` above"
    yield "every system call", Answer(None, effect) if is_filtered() else _YES


def render_system(findings: Sequence[Finding], width: int, *, only_no: bool) -> str:
    """A table: whether it is allowed, what, and what follows if it isn't."""
    shown = [each for each in findings if each.answer.allowed is False or not only_no]
    lines: list[str] = []
    group = ""
    for each in shown:
        if each.group != group:
            group = each.group
            lines.append(f"{group} (Linux {os.uname().release})" if group == "kernel" else group)
        lines += _row(each, width)
    return "".join(f"{line}\n" for line in lines)


_WORDS = {True: "yes", False: "no", None: "?"}
_NAMES = 26
"""Columns for a name; what is longer has a line to itself."""


def _row(finding: Finding, width: int) -> list[str]:
    name = printable(finding.name)
    room = width - len("  yes  ")
    if len(name) > room:
        name = f"{name[: room // 2]}…{name[len(name) - (room - room // 2 - 1) :]}"
    first = f"  {_WORDS[finding.answer.allowed]:3}  {name:{_NAMES}}"
    indent = " " * len(f"  yes  {'':{_NAMES}}  ")
    text = printable(finding.answer.consequence or "")
    pieces = wrap(text, max(width - len(indent), 20), break_on_hyphens=False)
    if pieces and len(name) <= _NAMES:
        first = f"{first}  {pieces.pop(0)}"
    return [first.rstrip(), *(indent + piece for piece in pieces)]


def system_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The table as JSON's values."""
    system = [
        {"group": group, "name": name, "allowed": answer.allowed, "consequence": answer.consequence}
        for group, name, answer in findings
    ]
    return {"version": 1, "system": system, "errors": []}
