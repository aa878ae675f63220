"""A pass as journal records where stderr is the journal; elsewhere as plain lines."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mountd.core.actions import Action, Drift, FilesystemAction, Outcome
from mountd.core.model import Fault, State
from mountd.core.words.printable import printable_lines, with_hint
from mountd.report.console import tell

if TYPE_CHECKING:
    from mountd.report.outlet import Outlet

ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7

MESSAGE_IDS = {
    "mounted": "3ee002308ab84c908d70e61d654d9302",
    "replaced": "03b4c7cfeba44cce96f1efb42744a709",
    "adjusted": "1b6e3280187e4d96b829401758df8810",
    "unmounted": "80f394f1806a493aa539603d8cb256b5",
    "pending": "813fb77715394a148af0428be668a0d4",
    "failed": "004c5b2b35c84f8b93cc344a7d7101c7",
    "conflict": "dcd6a2a28beb45698d7b38d342e77779",
    "fallback": "7c8f0a9f6a2e4d6c8a52f1a0c5b47d13",
    "manifest-refused": "640354bf5a8041b89fc247e23afd3aa6",
    "manifest-missing": "a608b0fad9114b9c9ffa48ae5b2629c4",
    "manifest-mended": "ed0c741409b64243b63e66c1f50ac02e",
    "watching": "607c4f18556146e7965720f609dd483c",
    "drifted": "c9a4bb04209347dbb676947f05da09f5",
    "undone": "44195cdeb84741cdbfdbf6308e5a7b42",
    "recovered": "15e6e5a5f97046e9b24b1d69266e747c",
    "confined": "1a723540f40a4ef7a5f916fe06de0c11",
    "warned": "ea3957335b86458ca74de84cfea53dfb",
    "pass-failed": "073b15ba9aee4af79e4b80a935b3c137",
    "left-out": "515a0db189c2487eb2bde1a165cb3387",
    "internal-error": "54ce64dbc2fd4ef694bba8fe11786118",
}
"""One for each kind of event (sd-id128(3)), never changed: people and catalogues filter by them."""

_PRIORITIES: dict[State, int] = {"failed": ERROR, "conflict": WARNING, "pending": NOTICE}

_JOURNALD = "/run/systemd/journal/socket"

Send = Callable[[dict[str, str], bool], None]
"""Takes a record's fields, and whether it may wait. Raises BlockingIOError if it would have to."""


class Journal:
    """Where passes report what they changed, and what they couldn't."""

    def __init__(self, pass_id: str, *, quiet: bool = False, never_waits: bool = False) -> None:
        """`quiet`: on a terminal or in a pipe, say only what went wrong.

        `never_waits`: a pipe or terminal that isn't read stops nobody; journald never does.
        """
        self.pass_id = pass_id
        self._journal_send = _journal_send()
        self._least = NOTICE if quiet else INFO
        never_waits = never_waits or self._journal_send is not None
        self._outlet = self._make_outlet() if never_waits else None

    def _make_outlet(self) -> "Outlet":
        from mountd.report.outlet import Outlet  # noqa: PLC0415 - it loads threads

        return Outlet(self._tell_dropped)

    def finish(self, patience: float = 0.5) -> None:
        """Wait until all is sent, but not long for a reader that doesn't take it."""
        if self._outlet:
            self._outlet.finish(patience=patience)

    def begin_pass(self) -> None:
        """What follows belongs to another pass."""
        self.pass_id = os.urandom(16).hex()

    def outcome(self, outcome: Outcome) -> None:
        """A record for what was changed, or could not be; nothing for what was left as it is."""
        self.change(outcome)
        self.fallback(outcome)

    def change(self, outcome: Outcome) -> None:
        """The record without that of a fallback."""
        action, fault = outcome.action, outcome.fault
        fields = {
            **_fields_of(action),
            "MOUNTD_ACTION": action.verb or "",
            "MOUNTD_STATE": outcome.state,
            "MOUNTD_REASON": fault.code if fault else "",
        }
        if fault:
            if fault.errno:
                fields["ERRNO"] = str(fault.errno)
            if fault.step:
                fields |= {"MOUNTD_STEP": fault.step, "MOUNTD_OBJECT": fault.object}
            self.tell(lines_of(action.volume, fault), fault.state, _PRIORITIES[fault.state], fields)
        if (event := action.done) and fault == action.fault:
            place = "from" if action.verb == "unmount" else "at"
            change = f": {action.owner_change}" if action.owner_change else ""
            message = f"{event}: {action.volume} {place} {action.target}{change}"
            self.tell(message, event, INFO, fields)

    def fallback(self, outcome: Outcome) -> None:
        """A record where the mount has raw ids, and why."""
        action = outcome.action
        if not outcome.fault and (refused := action.refused):
            fields = {
                **_fields_of(action),
                "MOUNTD_ACTION": action.verb or "",
                "MOUNTD_STATE": outcome.state,
                "MOUNTD_REASON": refused.fault.code,
            }
            said = f"fallback: {action.volume}: mounted with raw ids: {refused.fault.message}"
            self.tell(with_hint(said, refused.fault.hint), "fallback", WARNING, fields)

    def losses(self, filesystems: Iterable[FilesystemAction]) -> None:
        """A record for each filesystem that took files with it."""
        for step in filesystems:
            if (event := step.done) and step.notes:
                fields = {"MOUNTD_SOURCE": step.source, "MOUNTD_ACTION": step.verb or ""}
                self.tell(f"{event}: {step}: {'; '.join(step.notes)}", event, NOTICE, fields)

    def drift(self, action: Action) -> None:
        """A record of what someone else did to a mount; what is done about it has its own."""
        what = "; ".join(map(_drift_in_words, action.drift)) or "its mount is gone"
        message = f"drift: {action.volume} at {action.target}: {what}"
        self.tell(message, "drifted", NOTICE, _fields_of(action))

    def recovery(self, outcome: Outcome) -> None:
        """A record for a volume that is as desired again, without our doing."""
        action = outcome.action
        message = f"recovered: {action.volume} at {action.target}"
        self.tell(message, "recovered", INFO, {**_fields_of(action), "MOUNTD_STATE": outcome.state})

    def undone(self, action: Action, fault: Fault) -> None:
        """A record, once, of somebody who keeps undoing a mount."""
        fields = {**_fields_of(action), "MOUNTD_STATE": fault.state, "MOUNTD_REASON": fault.code}
        self.tell(lines_of(action.volume, fault), "undone", WARNING, fields)

    def line(self, text: str | Iterable[str], priority: int) -> None:
        """A line, or some, for a terminal; the journal has the records."""
        if not self._journal_send:
            self._print(printable_lines(text), priority)

    def tell(
        self,
        text: str | Iterable[str],
        event: str,
        priority: int,
        fields: dict[str, str] | None = None,
    ) -> None:
        """A record of a line, or of some."""
        message = printable_lines(text)
        fields = {**(fields or {}), "MOUNTD_PASS_ID": self.pass_id}
        record = _record(message, event, priority, fields)
        if not (send := self._journal_send):
            self._print(message, priority)
        elif self._outlet:
            size = sum(map(len, record.values()))
            self._outlet.put(lambda may_wait: send(record, may_wait), size)

    def _print(self, message: str, priority: int) -> None:
        if priority > self._least:
            return
        if self._outlet:
            put = self._outlet.put
            put(lambda may_wait: tell(f"{message}\n", may_wait=may_wait), len(message))
        else:
            tell(f"{message}\n")

    def _tell_dropped(self, count: int) -> None:
        """By the outlet's own thread."""
        records = "1 record was" if count == 1 else f"{count} records were"
        message = f"{records} dropped here, for they were not read as fast as they were written"
        if send := self._journal_send:
            fields = {"MOUNTD_PASS_ID": self.pass_id}
            send(_record(message, "left-out", WARNING, fields), True)
        else:
            tell(f"{message}\n")


def _record(message: str, event: str, priority: int, fields: dict[str, str]) -> dict[str, str]:
    return {
        "MESSAGE": message,
        "MESSAGE_ID": MESSAGE_IDS[event],
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "mountd",
        **fields,
    }


def _drift_in_words(drift: Drift) -> str:
    if drift.field != "mount":
        return f"{drift.field}: {drift.found} instead of {drift.wanted}"
    return "its mount is gone" if drift.found == "nothing" else f"its mount is at {drift.found}"


def _fields_of(action: Action) -> dict[str, str]:
    return {
        "MOUNTD_VOLUME": action.volume,
        "MOUNTD_TARGET": action.target,
        "MOUNTD_SOURCE": action.source,
    }


def lines_of(volume: str, fault: Fault) -> list[str]:
    """What is wrong with a volume, and what to do."""
    return with_hint(f"{fault.state}: {volume}: {fault.message}", fault.hint)


def _journal_send() -> Send | None:
    """A way into the journal, where systemd connected it to our stderr (systemd.exec(5))."""
    stderr = os.fstat(2)
    if os.environ.get("JOURNAL_STREAM") != f"{stderr.st_dev}:{stderr.st_ino}":
        return None
    try:
        from systemd import journal  # noqa: PLC0415 - it may not be there
    except ImportError:  # a missing library costs the fields, not the mounts
        return None

    from mountd.report.outlet import see_reader  # noqa: PLC0415

    def send(fields: dict[str, str], may_wait: bool) -> None:
        # not the library's logging handler, which adds 21 fields of Python's
        try:
            see_reader(_JOURNALD, may_wait=may_wait)
            journal.sendv(*(os.fsencode(f"{name}={text}") for name, text in fields.items() if text))
        except BlockingIOError:
            raise
        except OSError:  # a journal that is gone is no reason to stop halfway
            tell(f"{fields['MESSAGE']}\n", may_wait=may_wait)

    return send
