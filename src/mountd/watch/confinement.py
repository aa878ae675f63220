"""Whether what we mount is seen by nobody else, and which lines of systemd's units are to blame.

A unit in a mount namespace of its own runs well and mounts well, and no other process sees it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mountd.kernel.privileges import shares_mounts_with_init

FOLDERS = (  # systemd.unit(5), the first wins
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
)
_SWITCHES = frozenset({
    "DynamicUser", "PrivateBPF", "PrivateDevices", "PrivateIPC", "PrivateNetwork", "PrivatePIDs",
    "PrivateTmp", "ProcSubset", "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem",
})  # fmt: skip
"""One value each; systemd ignores an empty one."""
_WORDS = frozenset({
    "BindLogSockets", "IPCNamespacePath", "LogNamespace", "MountAPIVFS", "MountFlags",
    "NetworkNamespacePath", "PrivateMounts", "RootDirectory", "RootImage", "RootMStack",
})  # fmt: skip
"""One value each; an empty one takes it back."""
_LISTS = frozenset({
    "BindPaths", "BindReadOnlyPaths", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
    "InaccessibleDirectories", "InaccessiblePaths", "MountImages", "NoExecPaths",
    "ReadOnlyDirectories", "ReadOnlyPaths", "ReadWriteDirectories", "ReadWritePaths",
    "TemporaryFileSystem",
})  # fmt: skip
"""Many values each; an empty one takes all of them back."""
FORCING = _SWITCHES | _WORDS | _LISTS
"""What gives a unit a mount namespace of its own (systemd's exec_needs_mount_namespace())."""
_OFF = frozenset({"0", "no", "n", "false", "f", "off"})
_HARMLESS = {
    "MountFlags": "shared",
    "ProcSubset": "all",
    "ProtectProc": "default",
    "RootDirectory": "/",
}
_USUAL = (
    "PrivateTmp=, PrivateMounts=, ProtectSystem=, ProtectHome=, ReadOnlyPaths= and BindPaths= do"
    " that: take them out of the unit, whose lines `systemctl cat {unit}` shows"
)


class Confinement(NamedTuple):
    """That we are confined, and what to do about it."""

    message: str
    hint: str


class Directive(NamedTuple):
    """A line of a unit's."""

    name: str
    value: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"`{self.name}={self.value}` ({self.file}:{self.line})"


def find_confinement() -> Confinement | None:
    """Why nobody else sees what we mount; None where pid 1 does, or where that can't be told."""
    if shares_mounts_with_init() is not False:
        return None
    unit = service_of(_text_of("/proc/self/cgroup"))  # which a kernel without cgroups doesn't have
    if not unit:
        return Confinement(
            "this mount namespace isn't pid 1's: nobody outside it would see the mounts",
            "run mountd outside it, or by `nsenter --target 1 --mount`",
        )
    blamed = forcing(
        directive
        for file in files_of(unit, _names_in)
        for directive in parse_unit(_text_of(file), file)
    )
    return Confinement(
        f"{unit} runs in a mount namespace of its own: nobody else would see its mounts",
        f"take out {', '.join(map(str, blamed))}" if blamed else _USUAL.format(unit=unit),
    )


def service_of(cgroup: str) -> str | None:
    """The service that a process is in, by the text of its /proc/PID/cgroup."""
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            for name in reversed(path.split("/")):
                if name.endswith(".service"):
                    return name.removeprefix("_")  # which keeps it off cgroup's names
    return None


def files_of(unit: str, names_in: Callable[[str], Iterable[str]]) -> list[str]:
    """A unit's file and its drop-ins, in the order in which systemd reads them.

    `names_in` lists a folder. A drop-in hides those of its name that are less specific or lie in a
    later folder of systemd's; what a file that hides says (nothing, if it is a link to /dev/null)
    is for its reader.
    """
    stem = unit.removesuffix(".service")
    template = re.sub("@.*", "@", stem)
    names = dict.fromkeys((unit, f"{template}.service"))
    found = [f"{each}/{name}" for name in names for each in FOLDERS if name in names_in(each)]
    prefixes = [template[: dash.end()] for dash in re.finditer("-", template)][::-1]
    drop_ins: dict[str, str] = {}
    for owner in (*names, *(f"{each}.service" for each in prefixes), "service"):
        for folder in FOLDERS:
            for name in names_in(f"{folder}/{owner}.d"):
                if name.endswith(".conf"):
                    drop_ins.setdefault(name, f"{folder}/{owner}.d/{name}")
    return found[:1] + [drop_ins[name] for name in sorted(drop_ins)]


def parse_unit(text: str, file: str, section: str = "Service") -> Iterator[Directive]:
    """What a section of a unit's file says, each with the line that it begins at."""
    current = before = ""
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or not (stripped or before):
            continue
        if not before:
            start = number
        if stripped.endswith("\\"):
            before += f"{stripped[:-1]} "
            continue
        whole, before = f"{before}{stripped}", ""
        if whole.startswith("["):
            current = whole
        elif current == f"[{section}]" and "=" in whole:
            name, _, value = whole.partition("=")
            yield Directive(name.strip(), value.strip(), file, start)


def forcing(directives: Iterable[Directive]) -> list[Directive]:
    """Those that are in force in the end and give their unit a mount namespace of its own."""
    found: dict[str, list[Directive]] = {}
    for each in directives:
        if each.name not in FORCING or (each.name in _SWITCHES and not each.value):
            continue
        if each.name not in _LISTS or not each.value:
            found[each.name] = []
        if not _is_off(each):
            found.setdefault(each.name, []).append(each)
    return [each for values in found.values() for each in values]


def _is_off(directive: Directive) -> bool:
    name, value = directive.name, directive.value
    return (
        not value or value == _HARMLESS.get(name) or (name not in _LISTS and value.lower() in _OFF)
    )


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text_of(file: str) -> str:
    try:
        with open(file, errors="replace") as unit:
            return unit.read()
    except OSError:
        return ""
