"""What the command line says, and the short way to it.

Words that are plainly right are read here; all others are argparse's (usage.py), which costs as
much as the bare interpreter.
"""

import os
from collections.abc import Callable, Sequence

from mountd.core.words.commands import STATE_DIR

COMMANDS = {
    "reconcile": "make the mounts what the manifest says",
    "watch": "reconcile, then keep it so: the service's command",
    "status": "show each volume: its state, source, target, idmapping and drift",
    "check": "read and validate the manifest, and warn",
    "explain": "how ids travel through VOLUME, and what stops a user at PATH",
    "unmount": "take the mounts of VOLUME…, or of --all, off",
    "schema": "print the manifest's JSON Schema, for editors",
}


class Arguments:
    """The command and its options."""

    def __init__(self) -> None:
        self.command = ""
        self.volumes: Sequence[str] = ()
        self.manifest: str | None = None
        self.state_dir = STATE_DIR
        self.wait = 10.0
        self.user: str | None = None
        self.dry_run = self.detailed_exitcode = self.system = self.all = False
        self.json = self.verbose = self.quiet = False


class WordError(Exception):
    """A word isn't what its option takes."""


def plain_arguments(words: Sequence[str]) -> Arguments | None:
    """What these words say; None where they aren't plainly right."""
    arguments = Arguments()
    rest = iter(words)
    names: list[str] = []
    for word in rest:
        if name := _SWITCHES.get(word):
            setattr(arguments, name, True)
        elif option := _VALUES.get(word):
            name, take = option
            value = next(rest, "")
            if not value or value.startswith("-"):
                return None
            try:
                setattr(arguments, name, take(value))
            except WordError:
                return None
        elif not word or word.startswith("-"):
            return None
        else:
            names.append(word)
    if not names or names[0] not in COMMANDS:
        return None
    arguments.command, *arguments.volumes = names
    return None if misfit(arguments) else arguments


def misfit(arguments: Arguments) -> str | None:
    """A sentence on what doesn't go with the command."""
    command, volumes = arguments.command, arguments.volumes
    if command != "reconcile" and (arguments.dry_run or arguments.detailed_exitcode):
        return "--dry-run and --detailed-exitcode go with `mountd reconcile`"
    if command not in ("unmount", "explain") and (volumes or arguments.all):
        return f"`mountd {command}` takes no volumes"
    if command != "explain" and arguments.user is not None:
        return "--user goes with `mountd explain`"
    if command == "explain" and (arguments.all or not 1 <= len(volumes) <= 2):
        return "`mountd explain` takes a volume, and a path below its target"
    if command != "check" and arguments.system:
        return "--system goes with `mountd check`"
    if command == "unmount" and bool(volumes) == arguments.all:
        return "name the volumes to unmount, or give --all, and not both"
    return None


def path(text: str) -> str:
    """An absolute path. Raises WordError."""
    if not text or "\0" in text:
        raise WordError("a path is needed")
    try:
        return "/" + os.path.abspath(text).lstrip("/")
    except FileNotFoundError as error:
        said = f"`{text}` is relative, and the working directory is gone"
        raise WordError(said) from error


def seconds(text: str) -> float:
    """A number of seconds. Raises WordError."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        raise WordError(f"`{text}` is no number of seconds")
    return number


_SWITCHES = {
    "-n": "dry_run", "-v": "verbose", "-q": "quiet",
    **{
        f"--{name.replace('_', '-')}": name
        for name in ("dry_run", "detailed_exitcode", "system", "all", "json", "verbose", "quiet")
    },
}  # fmt: skip
_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "-f": ("manifest", path),
    "--manifest": ("manifest", path),
    "--state-dir": ("state_dir", path),
    "--wait": ("wait", seconds),
    "--user": ("user", str),
}
