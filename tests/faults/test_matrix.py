"""Which test provokes which fault: MATRIX.md is made of the tests' `fault` markers.

Each fault below has a test somewhere in tests/ that is marked with its number, or a reason here why
it has none.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

_TESTS = Path(__file__).parents[1]
_MATRIX = Path(__file__).with_name("MATRIX.md")


class Fault(NamedTuple):
    """What goes wrong, and what mountd has to make of it."""

    what: str
    answer: str


FAULTS = {
    1: Fault("no descriptor left (EMFILE)", "the limit is named; nothing is left open or damaged"),
    2: Fault(
        "no file left on the whole machine (ENFILE)", "the sysctl is named; the old one stays"
    ),
    3: Fault("no mount left (ENOSPC)", "fs.mount-max is named, no disk; the old one stays"),
    4: Fault("no user namespace left", "the sysctl is named; volumes that have theirs go on"),
    5: Fault("in a chroot", "the chroot is named, no capability"),
    6: Fault("no inotify left", "edits are seen all the same, later; that is said once"),
    7: Fault("/run is full", "nothing is changed, and no half record is left"),
    8: Fault("/run is read-only, or files may not grow", "nothing is changed; the record stays"),
    9: Fault("no memory left", "each read has a bound; the next pass goes on where it ended"),
    10: Fault("kill -9 anywhere", "the next pass converges"),
    11: Fault(
        "a child outlives the process", "it holds no lock, and no descriptor but those it needs"
    ),
    12: Fault("two passes at once", "one after the other; one mount at each target"),
    13: Fault("a lock that is held, removed, or inherited", "one holder, who is named; 75"),
    14: Fault("a record of another boot", "what is as desired is adopted, all else is foreign"),
    15: Fault("a record that is damaged or another's", "as lost, and kept aside"),
    16: Fault("a mount that is gone, or went with its parent", "drift: mounted where it belongs"),
    17: Fault("an id that another mount has now", "it isn't taken for ours"),
    18: Fault("a FIFO in a file's place", "a sentence; it isn't waited for"),
    19: Fault("a folder, device, socket, loop of links … for a file", "a sentence on each; 78"),
    20: Fault("a file that changes while it is read", "it is read whole, or waited for"),
    21: Fault("a file that others can write", "it isn't acted on; 78, or its volume fails"),
    22: Fault("a source that is missing, or goes", "pending; what is mounted stays"),
    23: Fault("a source that is renamed", "what was opened is mounted; then it is drift"),
    24: Fault("a file that is replaced by rename", "drift: the new one is mounted"),
    25: Fault("a source on a read-only filesystem", "it counts as read-only, and is named"),
    26: Fault("a disk that is gone", "what can't be read has failed; the other volumes go on"),
    27: Fault("a disk that turns read-only by an error", "its mount and idmapping stay"),
    28: Fault("a server that hangs", "its own volumes have failed, within a deadline"),
    29: Fault("a server that is dead", "its own volumes have failed; the way out is named"),
    30: Fault("a server whose flags are refused", "its own volumes have failed; errno and call"),
    31: Fault("a target that is missing, can't be made, or goes", "made by descriptors, or failed"),
    32: Fault("a target that is or becomes a link", "refused, or its owner's own; never astray"),
    33: Fault("a folder above a target that is renamed", "mounted anew where it belongs"),
    34: Fault("a target that is removed while mounted", "drift: made and mounted again"),
    35: Fault("a folder for a file, or the reverse", "`wrong-kind`, and both stay as they are"),
    36: Fault("a busy target", "replaced all the same; not unmounted, and the holder is named"),
    37: Fault("a foreign mount at a target before ours", "a conflict; nothing is stacked"),
    38: Fault("a foreign mount on top of ours", "a conflict; both stay where they are"),
    39: Fault("a foreign mount below ours", "a conflict that names it; it is never buried"),
    40: Fault("ours unmounted, moved or remounted", "mounted, moved back, adjusted; with back-off"),
    41: Fault("read-only, and a writer is in the way", "`busy`, who is named; tried again"),
    42: Fault("the mount that a target lies in is taken off", "drift: made on what is there now"),
    43: Fault("a shared parent", "copies are in nobody's way; unbindable is named"),
    44: Fault("a mount namespace of its own", "it is said; as a unit, refused"),
    45: Fault("in a container", "that is named, no old kernel; what is its own is idmapped"),
    46: Fault("a seccomp filter", "that is named; what can be done without the call is done"),
    47: Fault("a capability is missing", "that is named; with raw ids, not at all, or 77"),
    48: Fault("the machine shuts down", "nothing is put back"),
    49: Fault("the clock is set, or the machine sleeps", "no wait is longer or shorter by it"),
    50: Fault("a burst of changes, or our own", "few passes, and none by our own"),
}
UNTESTED = {
    49: "A test can neither set this machine's clock nor put the machine to sleep, and a time"
    " namespace is set before its first process. The watch asks monotonic clocks alone, and"
    " after a sleep the next resync is at most a minute of waking away (33).",
}
"""Why these have no test."""


class Way(NamedTuple):
    """How a test provokes a fault."""

    file: str
    name: str
    words: str


def _tests() -> Iterator[tuple[int, Way]]:
    for path in sorted(_TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.fault(" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    for number, words in _markers(node):
                        way = Way(str(path.relative_to(_TESTS)), node.name, words)
                        yield number, way


def _markers(test: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    for each in test.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.fault":
            number, words = map(ast.literal_eval, each.args)
            yield number, words


def _rendered(found: list[tuple[int, Way]]) -> str:
    lines = [
        "# Faults, and the tests that provoke them",
        "",
        "Made by test_matrix.py of the `fault` markers of the tests, with `--update-golden`.",
        "",
        "| # | fault | what mountd does | how it is provoked, and the test below tests/ |",
        "| --- | --- | --- | --- |",
    ]
    for number, fault in FAULTS.items():
        ways = [way for each, way in found if each == number]
        told = [f"{way.words}: `{way.file}::{way.name}`" for way in ways]
        shown = "<br>".join(told) or f"No test. {UNTESTED[number]}"
        lines.append(f"| {number} | {fault.what} | {fault.answer} | {shown} |")
    return "\n".join(lines) + "\n"


def test_each_fault_has_a_test_or_a_reason_why_not(pytestconfig: pytest.Config) -> None:
    found = [*_tests()]
    numbers = {number for number, _ in found}
    assert numbers - FAULTS.keys() == set(), "there are no such faults"
    assert numbers & UNTESTED.keys() == set(), "a reason, and a test all the same"
    assert FAULTS.keys() - numbers == UNTESTED.keys(), "neither a test nor a reason"
    text = _rendered(found)
    if pytestconfig.getoption("update_golden"):
        _MATRIX.write_text(text)
    assert _MATRIX.read_text() == text
