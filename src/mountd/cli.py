"""Arguments in, exit status out."""

import argparse
import gc
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

from mountd.core.words.commands import STATE_DIR
from mountd.core.words.printable import printable_lines, with_hint
from mountd.exits import FAILED, INTERRUPTED, OK, USAGE
from mountd.report.console import open_closed, show, tell

_COMMANDS = {
    "reconcile": "make the mounts what the manifest says",
    "watch": "reconcile, then keep it so: the service's command",
    "status": "show each volume: its state, source, target, idmapping and drift",
    "check": "read and validate the manifest, and warn",
    "explain": "how ids travel through VOLUME, and what stops a user at PATH",
    "unmount": "take the mounts of VOLUME…, or of --all, off",
    "schema": "print the manifest's JSON Schema, for editors",
}
_EXITS = """exit status:
  0 done, or nothing to do
  1 a required volume failed, is in conflict or is pending;
    status: isn't mounted, or has drifted
  2 with --dry-run --detailed-exitcode: there are changes to make
  64 the command line is wrong   75 another pass, or a watch, runs
  77 not privileged              78 the manifest is missing or wrong"""


def main() -> int:
    """Run the command that the arguments name."""
    gc.disable()  # a command ends before there is garbage to speak of
    os.umask(0o022)  # what `create` makes is 0755, whatever we were started with
    open_closed()
    try:
        _speak_utf8()
        arguments = _parsed(sys.argv[1:])
        # slow to import: --help and a wrong option don't wait for it
        from mountd.commands import run  # noqa: PLC0415

        return run(arguments)
    except _UsageError as error:
        _tell(f"mountd: {error}", "`mountd --help` lists commands and options")
        if "--json" in sys.argv:
            from mountd.commands import usage_document  # noqa: PLC0415

            _show(usage_document(str(error)))
        return USAGE
    except _Answer as answer:
        return _show(str(answer))
    except MemoryError:
        _tell("mountd: out of memory; what was done so far is on record")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _speak_utf8() -> None:
    """Where the locale has another charset, start anew: paths in a manifest are UTF-8, and so ours.

    Python settles at its start how it spells the paths that it hands to the kernel.
    """
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions:  # noqa: SLF001
        return
    try:
        with open("/proc/self/cmdline", "rb") as file:  # as it was, before the locale spoilt it
            python, *words = file.read().split(b"\0")[:-1]
        os.execv(sys.executable, [python, b"-X", b"utf8", *words])  # noqa: S606 - itself
    except OSError as error:
        said = f"this locale isn't UTF-8, and Python can't be started anew: {error.strerror}"
        raise _UsageError(said) from error


def _show(text: str) -> int:
    """Write to stdout, and return the exit status."""
    if lost := show(text):
        _tell(f"mountd: error: {lost}")
        return FAILED
    return OK


def _tell(message: str, hint: str | None = None) -> None:
    tell(printable_lines(with_hint(message, hint)) + "\n")


class _Answer(Exception):  # noqa: N818 - it is no error
    """All that was asked for, as by --help."""


class _UsageError(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message.replace("ignored explicit argument", "takes no value, so not"))


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
        parser.error(f"unknown option `{unknown[0]}`{_suggestion(unknown[0], options)}")
    if not arguments.command:
        parser.error(f"a command is needed: {', '.join(_COMMANDS)}")
    command, *volumes = arguments.command
    if command not in _COMMANDS:
        parser.error(f"unknown command `{command}`{_suggestion(command, _COMMANDS)}")
    arguments.command, arguments.volumes = command, volumes
    _see_fitting(parser, arguments)
    return arguments


def _see_fitting(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what doesn't go with the command."""
    command, volumes = arguments.command, arguments.volumes
    if command != "reconcile" and (arguments.dry_run or arguments.detailed_exitcode):
        parser.error("--dry-run and --detailed-exitcode go with `mountd reconcile`")
    if command not in ("unmount", "explain") and (volumes or arguments.all):
        parser.error(f"`mountd {command}` takes no volumes")
    if command != "explain" and arguments.user is not None:
        parser.error("--user goes with `mountd explain`")
    if command == "explain" and (arguments.all or not 1 <= len(volumes) <= 2):
        parser.error("`mountd explain` takes a volume, and a path below its target")
    if command != "check" and arguments.system:
        parser.error("--system goes with `mountd check`")
    if command == "unmount" and bool(volumes) == arguments.all:
        parser.error("name the volumes to unmount, or give --all, and not both")


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10} {what}" for name, what in _COMMANDS.items())
    parser = _Parser(
        prog="mountd",
        usage="mountd COMMAND [OPTION…]",
        description=f"A declarative mount manager for Linux guests.\n\ncommands:\n{commands}",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    add = parser.add_argument_group("options").add_argument
    add("-f", "--manifest", metavar="FILE", type=_path,
        help="this manifest and FILE.d/*.toml, instead of /etc/mountd.toml")  # fmt: skip
    add("-n", "--dry-run", action="store_true", help="reconcile: print the plan, change nothing")
    add("--detailed-exitcode", action="store_true", help="reconcile: a dry run with changes is 2")
    add("--system", action="store_true", help="check: instead, what this system allows")
    add("--user", metavar="USER", help="explain: for this one, instead of the volume's user")
    add("--all", action="store_true", help="unmount: every volume of the manifest")
    add("--state-dir", metavar="DIR", type=_path, default=STATE_DIR,
        help="where the record and the lock are, instead of /run/mountd")  # fmt: skip
    add("--wait", metavar="SECONDS", type=_seconds, default=10.0,
        help="how long to wait for another pass (10)")  # fmt: skip
    add("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    add(
        "-v", "--verbose", action="store_true", help="list what is kept, also when nothing is to do"
    )
    add("-q", "--quiet", action="store_true", help="say only what went wrong")
    add("--version", action=_Version, nargs=0, help="print the version")
    add("-h", "--help", action=_Help, help="print this")
    return parser


class _Help(argparse._HelpAction):  # noqa: SLF001 - by which shtab knows it
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _Answer(parser.format_help())


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms

        raise _Answer(f"mountd {version('mountd')}\n")


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path is needed")
    try:
        return "/" + os.path.abspath(text).lstrip("/")
    except FileNotFoundError as error:
        said = f"`{text}` is relative, and the working directory is gone"
        raise argparse.ArgumentTypeError(said) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds")
    return seconds


def _suggestion(word: str, known: Iterable[str]) -> str:
    from mountd.core.words.spelling import nearest  # noqa: PLC0415 - for this alone

    near = nearest(word, list(known))
    return f": did you mean `{near}`?" if near else ""
