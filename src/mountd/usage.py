"""The command line as argparse reads it, and what is said of a wrong one."""

import argparse
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from mountd.arguments import COMMANDS, Arguments, WordError, misfit, path, seconds
from mountd.core.words.commands import STATE_DIR
from mountd.core.words.spelling import nearest

_EXITS = """exit status:
  0 done, or nothing to do
  1 a required volume failed, is in conflict or is pending;
    status: isn't mounted, or has drifted
  2 with --dry-run --detailed-exitcode: there are changes to make
  64 the command line is wrong   75 another pass, or a watch, runs
  77 not privileged              78 the manifest is missing or wrong"""


class Answer(Exception):  # noqa: N818 - it is no error
    """All that was asked for, as by --help."""


class UsageError(Exception):
    """The command line is wrong."""


def judged_arguments(words: list[str]) -> Arguments:
    """What these words say. Raises UsageError, or Answer where that is all."""
    parser = make_parser()
    said, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
        parser.error(f"unknown option `{unknown[0]}`{_suggestion(unknown[0], options)}")
    if not said.command:
        parser.error(f"a command is needed: {', '.join(COMMANDS)}")
    command, *volumes = said.command
    if command not in COMMANDS:
        parser.error(f"unknown command `{command}`{_suggestion(command, COMMANDS)}")
    arguments = Arguments()
    vars(arguments).update(vars(said), command=command, volumes=volumes)
    if why := misfit(arguments):
        parser.error(why)
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """Every option, with its help."""
    commands = "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
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
    add("-f", "--manifest", metavar="FILE", type=_type(path),
        help="this manifest and FILE.d/*.toml, instead of /etc/mountd.toml")  # fmt: skip
    add("-n", "--dry-run", action="store_true", help="reconcile: print the plan, change nothing")
    add("--detailed-exitcode", action="store_true", help="reconcile: a dry run with changes is 2")
    add("--system", action="store_true", help="check: instead, what this system allows")
    add("--user", metavar="USER", help="explain: for this one, instead of the volume's user")
    add("--all", action="store_true", help="unmount: every volume of the manifest")
    add("--state-dir", metavar="DIR", type=_type(path), default=STATE_DIR,
        help="where the record and the lock are, instead of /run/mountd")  # fmt: skip
    add("--wait", metavar="SECONDS", type=_type(seconds), default=10.0,
        help="how long to wait for another pass (10)")  # fmt: skip
    add("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    add(
        "-v", "--verbose", action="store_true", help="list what is kept, also when nothing is to do"
    )
    add("-q", "--quiet", action="store_true", help="say only what went wrong")
    add("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version")
    add("-h", "--help", action=_Help, help="print this")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.replace("ignored explicit argument", "takes no value, so not"))


class _Help(argparse._HelpAction):  # noqa: SLF001 - by which shtab knows it
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Answer(parser.format_help())


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms

        raise Answer(f"mountd {version('mountd')}\n")


_Value = TypeVar("_Value")


def _type(take: Callable[[str], _Value]) -> Callable[[str], _Value]:
    def taken(text: str) -> _Value:
        try:
            return take(text)
        except WordError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return taken


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = nearest(word, list(known))
    return f": did you mean `{near}`?" if near else ""
