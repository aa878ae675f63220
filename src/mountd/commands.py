"""The commands: what each does with a pass, where its words go, and its exit status."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import ENOSYS
from typing import NoReturn

from mountd.arguments import Arguments
from mountd.core.actions import Action, FilesystemAction, Outcome, Report
from mountd.core.words.commands import mountd, remember
from mountd.core.words.printable import with_hint
from mountd.exits import (
    BAD_MANIFEST,
    CHANGES,
    FAILED,
    OK,
    UNPRIVILEGED,
    PrivilegeError,
    RunError,
    StateError,
)
from mountd.kernel.limits import hint_of
from mountd.kernel.privileges import how_to_have, missing_capabilities
from mountd.kernel.served import ServedError
from mountd.manifest.layers import manifest_id
from mountd.manifest.problem import ManifestError, Problem
from mountd.reconcile.passes import Settings, preview, reconcile, recorded, unmount
from mountd.report.console import show
from mountd.report.journal import ERROR, INFO, NOTICE, WARNING, Journal, lines_of
from mountd.report.lines import render_plan, render_status, render_summary
from mountd.report.page import Page
from mountd.report.progress import ProgressLine


def run(arguments: Arguments) -> NoReturn:
    """Run the command that the arguments name, and end with its exit status."""
    status = _Command(arguments).run()
    # nothing is left to do: taking the interpreter apart costs half of what starting it does, while
    # threads may hang, and that of watchfiles crashes 3.13
    os._exit(status)


def usage_document(message: str) -> str:
    """The JSON document of a run that did not begin, for the command line was wrong."""
    nothing = Report((), (), is_dry=True)
    return _to_json(_document("", nothing, errors=[_problem(message)]))


class _Command:
    """One run: its arguments, and where its words go."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._progress = ProgressLine("looking at the volumes", is_quiet=arguments.quiet)
        self._settings = Settings(arguments.manifest, arguments.state_dir)
        self._manifest = manifest_id(arguments.manifest)
        remember(self._manifest, arguments.manifest, arguments.state_dir)
        self._pass_id = os.urandom(16).hex()
        self._journal = Journal(
            self._pass_id, quiet=arguments.quiet, never_waits=arguments.command == "watch"
        )
        self._page = Page.of_terminal() if os.isatty(1) else Page()
        self._is_acting = arguments.command in ("unmount", "watch") or (
            arguments.command == "reconcile" and not arguments.dry_run
        )
        self._lost_stdout: str | None = None

    def run(self) -> int:
        """Do it. What stops it as a whole is said in a sentence."""
        status = self._run()
        if self._lost_stdout:
            self._journal.tell(_problem(self._lost_stdout).lines, "pass-failed", ERROR)
        self._journal.finish()
        return status or (FAILED if self._lost_stdout else OK)

    def _run(self) -> int:
        command = self._arguments.command
        try:
            if self._is_acting and missing_capabilities(["CAP_SYS_ADMIN"]):
                dry_run = mountd("reconcile", "--dry-run")
                hint = f"{how_to_have('CAP_SYS_ADMIN')}; {dry_run} is for anyone"
                raise PrivilegeError(f"`mountd {command}` needs CAP_SYS_ADMIN", hint)
            return {
                "reconcile": self._reconcile,
                "watch": self._watch,
                "status": self._status,
                "check": self._check,
                "explain": self._explain,
                "unmount": self._unmount,
                "schema": self._schema,
            }[command]()
        except ManifestError as error:
            return self._stopped(BAD_MANIFEST, error.problems, error.files)
        except RunError as error:
            return self._stopped(error.status, [_problem(str(error), error.hint)])
        except ServedError as error:  # what nobody foresaw to be on a server
            hint = "have it where no server is asked, or choose another place"
            return self._stopped(FAILED, [_problem(f"{error}, which may not answer", hint)])
        except OSError as error:
            return self._stopped(FAILED, [_problem(_said(error), hint_of(error))])

    def _reconcile(self) -> int:
        if self._is_acting:
            with self._progress:
                result = reconcile(
                    self._settings,
                    self._show_plan,
                    self._journal.outcome,
                    wait=self._arguments.wait,
                    on_wait=self._progress.say,
                )
            self._journal.losses(result.filesystems)
        else:
            result = self._preview()
            self._show_plan(result.filesystems, [each.action for each in result.outcomes])
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result)
        elif result.has_changes or any(each.fault for each in result.outcomes):
            self._show_summary(result)
        if any(each.is_failure for each in result.outcomes):
            return FAILED
        has_changes = result.is_dry and result.has_changes
        return CHANGES if has_changes and self._arguments.detailed_exitcode else OK

    def _watch(self) -> int:
        # none of these is needed by commands that end
        from mountd.watch.confinement import find_confinement  # noqa: PLC0415
        from mountd.watch.loop import Watch  # noqa: PLC0415
        from mountd.watch.systemd import Supervisor  # noqa: PLC0415

        supervisor = Supervisor()
        if confinement := find_confinement():
            if supervisor.is_systemd:
                said = with_hint(confinement.message, confinement.hint)
                self._journal.tell(said, "confined", ERROR)
                return UNPRIVILEGED
            self._journal.line(f"note: {confinement.message}", INFO)
        watch = Watch(self._settings, self._journal, supervisor, self._arguments.wait)
        watch.run()
        if self._arguments.json:
            self._show_document(watch.result)
        return OK

    def _preview(self) -> Report:
        with self._progress:
            return preview(self._settings)

    def _status(self) -> int:
        try:
            result = self._preview()
        except ManifestError:
            if not self._arguments.json:  # the JSON document lists only volumes of a manifest
                self._show_recorded()
            raise
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result, shows_found=True)
        else:
            if result.outcomes:
                self._show(render_status(result, self._page))
            else:
                self._journal.line(f"{self._manifest}: no volumes", INFO)
            self._tell_faults_if_quiet(result)
        return OK if all(each.is_as_desired for each in result.outcomes) else FAILED

    def _show_recorded(self) -> None:
        """What there is all the same: a manifest that can't be had unmounts nothing."""
        with suppress(StateError, OSError):  # the manifest's errors, which follow, come first
            result = recorded(self._settings)
            if result.outcomes:
                self._show(render_status(result, self._page))

    def _check(self) -> int:
        if self._arguments.system:
            return self._check_system()
        from mountd.check.doubts import find_doubts, with_doubts  # noqa: PLC0415 - 3 ms, for this alone

        result = self._preview()
        doubts = find_doubts(result, self._settings.state_dir)
        result = with_doubts(result, doubts.found)
        self._warn([*result.warnings, *doubts.unseen, *map(str, doubts.found)])
        if self._arguments.json:
            self._show_document(result)
        else:
            count = sum(not each.action.is_departure for each in result.outcomes)
            volumes = f"{count} volume" if count == 1 else f"{count} volumes"
            manifest = next(iter(result.files), self._manifest)
            self._journal.line(f"{manifest}: ok, {volumes}", INFO)
            self._tell_faults(result)
        return OK

    def _check_system(self) -> int:
        from mountd.check.system import find_system, render_system, system_document  # noqa: PLC0415

        findings = find_system()
        if self._arguments.json:
            self._print_json(system_document(findings))
        else:
            only_no = self._arguments.quiet
            self._show(render_system(findings, self._page.width, only_no=only_no), always=True)
        return OK

    def _explain(self) -> int:
        from mountd.explain.explainer import explain  # noqa: PLC0415 - 10 ms, for this alone
        from mountd.explain.explanation import explanation_document  # noqa: PLC0415
        from mountd.explain.telling import render_explanation  # noqa: PLC0415

        name, path, *_ = (*self._arguments.volumes, None, None)
        with self._progress:
            told = explain(self._settings, name, path, self._arguments.user)
        self._warn(told.warnings)
        if self._arguments.json:
            self._print_json(explanation_document(told))
        else:
            only_no = self._arguments.quiet
            self._show(render_explanation(told, self._page, only_no=only_no), always=True)
        return OK

    def _schema(self) -> int:
        from mountd.manifest.json_schema import manifest_schema  # noqa: PLC0415 - for this alone

        self._print_json(manifest_schema())
        return OK

    def _unmount(self) -> int:
        with self._progress:
            result = unmount(
                self._settings,
                self._arguments.volumes,
                self._tell_outcome,
                wait=self._arguments.wait,
                on_wait=self._progress.say,
            )
        self._journal.losses(result.filesystems)
        self._warn(result.warnings)
        if self._arguments.json:
            self._show_document(result)
        else:
            self._show_summary(result)
        return FAILED if any(each.is_failure for each in result.outcomes) else OK

    def _tell_outcome(self, outcome: Outcome) -> None:
        self._progress.end()
        self._journal.outcome(outcome)

    def _show_plan(
        self, filesystems: Sequence[FilesystemAction], actions: Sequence[Action]
    ) -> None:
        self._progress.end()
        if not self._arguments.json:
            explains = not self._is_acting  # else the faults follow, as they come
            is_long = explains or self._arguments.verbose
            plan = render_plan(filesystems, actions, self._page, explains=explains, is_long=is_long)
            self._show(plan)

    def _show_summary(self, result: Report) -> None:
        """A dry run's is the end of the plan; else the plan is out, and this is about it."""
        text = render_summary(result, self._page)
        if result.is_dry:
            self._show(text + "\n")
            self._tell_faults_if_quiet(result)
        else:
            self._journal.line(text.split("\n"), INFO)

    def _tell_faults_if_quiet(self, result: Report) -> None:
        if self._arguments.quiet:
            self._tell_faults(result)

    def _tell_faults(self, result: Report) -> None:
        for action, _, fault in result.outcomes:
            if fault:
                self._journal.line(lines_of(action.volume, fault), NOTICE)

    def _show_document(self, result: Report, *, shows_found: bool = False) -> None:
        self._print_json(_document(self._pass_id, result, shows_found=shows_found))

    def _stopped(
        self, status: int, problems: Sequence[Problem], files: tuple[str, ...] = ()
    ) -> int:
        event = "manifest-refused" if status == BAD_MANIFEST else "pass-failed"
        for problem in problems:
            self._journal.tell(problem.lines, event, ERROR)
        if self._arguments.json:
            nothing = Report(files or (self._manifest,), (), not self._is_acting)
            self._print_json(_document(self._pass_id, nothing, errors=problems))
        return status

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self._journal.tell(f"warning: {warning}", "warned", WARNING)

    def _print_json(self, document: object) -> None:
        self._show(_to_json(document), always=True)

    def _show(self, text: str, *, always: bool = False) -> None:
        """Write to stdout. Where it can't be written the pass goes on, and the end tells."""
        if self._arguments.quiet and not always:
            return
        self._lost_stdout = show(text) or self._lost_stdout


def _document(
    pass_id: str, result: Report, *, shows_found: bool = False, errors: Sequence[Problem] = ()
) -> object:
    from mountd.report.document import to_document  # noqa: PLC0415 - for --json alone

    return to_document(pass_id, result, shows_found=shows_found, errors=errors)


def _to_json(document: object) -> str:
    import json  # noqa: PLC0415 - for --json alone

    return json.dumps(document, indent=2) + "\n"


def _problem(message: str, hint: str | None = None) -> Problem:
    """One of the run, not of a file."""
    return Problem(None, None, None, message, hint)


def _said(error: OSError) -> str:
    """The kernel's words; one that lacks a call that is always needed is too old."""
    if error.errno == ENOSYS:
        return f"{error.strerror}: mountd needs Linux 5.12, and this is {os.uname().release}"
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
