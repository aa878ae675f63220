"""Arguments in, exit status out.

What is slow to import is imported by the command that needs it: --help and a wrong option don't wait.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterable, Sequence
from errno import ENOSYS
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mountd.core.model import Action
    from mountd.manifest.problem import Problem
    from mountd.reconcile import Pass

OK, FAILED, CHANGES = 0, 1, 2
USAGE, LOCKED, UNPRIVILEGED, BAD_MANIFEST = 64, 75, 77, 78  # as in sysexits.h
INTERRUPTED = 130

_COMMANDS = {
    "reconcile": "make the mounts what the manifest says",
    "status": "show each volume: its state, source, target, idmapping and drift",
    "check": "read and validate the manifest, and warn",
    "unmount": "take the mounts of VOLUME…, or of --all, off",
}
_CAP_SYS_ADMIN = 1 << 21


def main() -> int:
    """Run the command that the arguments name."""
    gc.disable()  # a command ends before there is garbage to speak of
    os.umask(0o022)  # what `create` makes is 0755, whatever we were started with
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _Command(_parsed(sys.argv[1:])).run()
    except KeyboardInterrupt:
        return INTERRUPTED


class _Command:
    """One run: its arguments, and where its words go."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from mountd.journal import Journal
        from mountd.reconcile import Settings
        from mountd.report import Page

        self._arguments = arguments
        self._settings = Settings(arguments.manifest, arguments.state_dir, arguments.wait)
        self._pass_id = os.urandom(16).hex()
        self._journal = Journal(self._pass_id, quiet=arguments.quiet)
        self._page = Page.of_terminal() if sys.stdout.isatty() else Page()

    def run(self) -> int:
        """Do it. What stops it as a whole is said in a sentence."""
        from mountd.manifest.problem import ManifestError, Problem
        from mountd.record import LockedError, StateError

        arguments = self._arguments
        is_acting = arguments.command == "unmount" or (
            arguments.command == "reconcile" and not arguments.dry_run
        )
        if is_acting and not _is_privileged():
            message = f"`mountd {arguments.command}` needs CAP_SYS_ADMIN"
            problem = Problem("", None, None, message, "run it as root, or see --dry-run")
            return self._stopped(UNPRIVILEGED, [problem])
        try:
            return {
                "reconcile": self._reconcile,
                "status": self._status,
                "check": self._check,
                "unmount": self._unmount,
            }[arguments.command]()
        except ManifestError as error:
            return self._stopped(BAD_MANIFEST, error.problems)
        except LockedError as error:
            return self._stopped(LOCKED, [Problem("", None, None, str(error))])
        except StateError as error:
            return self._stopped(FAILED, [Problem("", None, None, str(error))])
        except OSError as error:
            return self._stopped(FAILED, [Problem("", None, None, _said(error), None)])

    def _reconcile(self) -> int:
        from mountd import reconcile
        from mountd.report import is_change, is_failure, render_summary

        if self._arguments.dry_run:
            result = reconcile.preview(self._settings)
            self._show_plan([each.action for each in result.outcomes], is_dry=True)
        else:
            result = reconcile.reconcile(self._settings, self._show_plan, self._journal.outcome)
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result)
        elif any(map(is_change, result.outcomes)) or any(each.fault for each in result.outcomes):
            self._show(render_summary(result))
        if any(map(is_failure, result.outcomes)):
            return FAILED
        if self._arguments.detailed_exitcode and any(map(is_change, result.outcomes)):
            return CHANGES if result.is_dry else OK
        return OK

    def _status(self) -> int:
        from mountd.reconcile import preview
        from mountd.report import is_as_desired, render_status

        result = preview(self._settings)
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result, shows_found=True)
        else:
            self._show(render_status(result, self._page))
        return OK if all(map(is_as_desired, result.outcomes)) else FAILED

    def _check(self) -> int:
        from mountd.reconcile import preview

        result = preview(self._settings)
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result)
        else:
            count = sum(each.action.verb != "unmount" for each in result.outcomes)
            volumes = f"{count} volume" if count == 1 else f"{count} volumes"
            self._show(f"{self._settings.manifest}: ok, {volumes}\n")
        return OK

    def _unmount(self) -> int:
        from mountd import reconcile
        from mountd.manifest.problem import Problem
        from mountd.report import is_failure, render_summary

        try:
            names = self._arguments.volumes
            result = reconcile.unmount(self._settings, names, self._journal.outcome)
        except LookupError as error:
            message = f"no mount of {_listed(error.args)} is on record"
            hint = f"`mountd status` shows what {self._settings.manifest} has mounted"
            return self._stopped(USAGE, [Problem("", None, None, message, hint)])
        if self._arguments.json:
            self._show_document(result)
        else:
            self._show(render_summary(result))
        return FAILED if any(map(is_failure, result.outcomes)) else OK

    def _show_plan(self, actions: "list[Action]", *, is_dry: bool = False) -> None:
        from mountd.report import render_plan

        if not self._arguments.json:
            is_long = is_dry or self._arguments.verbose
            self._show(render_plan(actions, self._page, explains=is_dry, is_long=is_long))

    def _show_document(self, result: "Pass", *, shows_found: bool = False) -> None:
        from mountd.report import to_document

        self._print_json(to_document(self._pass_id, result, shows_found=shows_found))

    def _stopped(self, status: int, problems: "Sequence[Problem]") -> int:
        from mountd.journal import ERROR
        from mountd.reconcile import Pass
        from mountd.report import to_document

        event = "manifest-refused" if status == BAD_MANIFEST else "pass-failed"
        for problem in problems:
            self._journal.tell(str(problem), event, ERROR)
        if self._arguments.json:
            nothing = Pass((self._settings.manifest,), (), bool(self._arguments.dry_run))
            self._print_json(to_document(self._pass_id, nothing, errors=problems))
        return status

    def _warn(self, warnings: Iterable[str]) -> None:
        if not self._arguments.quiet:
            for warning in warnings:
                sys.stderr.write(f"warning: {warning}: a real run by root refuses that\n")

    def _print_json(self, document: object) -> None:
        import json

        self._show(json.dumps(document, indent=2) + "\n", always=True)

    def _show(self, text: str, *, always: bool = False) -> None:
        if self._arguments.quiet and not always:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever stopped reading doesn't stop the pass
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"mountd: {message}\nhint: `mountd --help` lists commands and options\n")


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001
        parser.error(f"unknown option `{unknown[0]}`{_suggestion(unknown[0], options)}")
    if not arguments.command:
        parser.print_help(sys.stderr)
        parser.exit(USAGE)
    command, *volumes = arguments.command
    if command not in _COMMANDS:
        parser.error(f"unknown command `{command}`{_suggestion(command, _COMMANDS)}")
    arguments.command, arguments.volumes = command, volumes
    if command != "reconcile" and (arguments.dry_run or arguments.detailed_exitcode):
        parser.error("--dry-run and --detailed-exitcode go with `mountd reconcile`")
    if command != "unmount" and (volumes or arguments.all):
        parser.error(f"`mountd {command}` takes no volumes")
    if command == "unmount" and bool(volumes) == arguments.all:
        parser.error("name the volumes to unmount, or give --all")
    return arguments


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10} {what}" for name, what in _COMMANDS.items())
    parser = _Parser(
        prog="mountd",
        usage="mountd COMMAND [OPTION…]",
        description=f"A declarative mount manager for Linux guests.\n\ncommands:\n{commands}",
        epilog="exit status: 0 done, 1 a required volume isn't as desired, 2 changes to make"
        " (--detailed-exitcode),\n64 usage, 75 another pass runs, 77 not privileged, 78 bad manifest",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    add = parser.add_argument_group("options").add_argument
    add("-f", "--manifest", metavar="FILE", type=_path, default="/etc/mountd.toml",
        help="the manifest, instead of /etc/mountd.toml")  # fmt: skip
    add("-n", "--dry-run", action="store_true", help="reconcile: print the plan, change nothing")
    add("--detailed-exitcode", action="store_true", help="reconcile: a dry run with changes is 2")
    add("--all", action="store_true", help="unmount: every volume of the manifest")
    add("--state-dir", metavar="DIR", type=_path, default="/run/mountd",
        help="where the record and the lock are, instead of /run/mountd")  # fmt: skip
    add("--wait", metavar="SECONDS", type=_seconds, default=10.0,
        help="how long to wait for another pass (10)")  # fmt: skip
    add("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    add("-v", "--verbose", action="store_true", help="show what is kept, too")
    add("-q", "--quiet", action="store_true", help="say only what went wrong")
    add("--version", action=_Version, nargs=0, help="print the version")
    add("-h", "--help", action="help", help="print this")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        parser.exit(OK, f"mountd {version('mountd')}\n")


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path is needed")
    return "/" + os.path.abspath(text).lstrip("/")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds")
    return seconds


def _suggestion(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f": did you mean `{near[0]}`?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _said(error: OSError) -> str:
    """The kernel's words; one that lacks statmount(2) is from before 6.8."""
    if error.errno == ENOSYS:
        return f"{error.strerror}: mountd needs Linux 6.8, and this is {os.uname().release}"
    return error.strerror or str(error)


def _is_privileged() -> bool:
    with open("/proc/self/status") as lines:
        line = next(line for line in lines if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
