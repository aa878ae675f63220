"""A pass as journald keeps it; and as lines, where stderr is not the journal."""

import fcntl
import os
import re
import subprocess
from typing import Any

import pytest
from every_state import make_every_state
from journald import SOCKETS, Journal
from world import World, run

from mountd.report.journal import MESSAGE_IDS

_EVENTS = {each: event for event, each in MESSAGE_IDS.items()}


def _told(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields that mountd gave each record."""
    return [
        {key: value for key, value in each.items() if not key.startswith(("_", "CODE_"))}
        for each in records
    ]


def _by_items(record: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(record.items())


_PRIORITIES = {"failed": "3", "conflict": "4", "pending": "5"}
_DONE = {"mount": "mounted", "replace": "replaced", "adjust": "adjusted", "unmount": "unmounted"}


def test_each_change_and_each_fault_is_one_record(world: World, journal: Journal) -> None:
    make_every_state(world)
    document = journal.mountd("reconcile", "--json").document
    wanted = []
    for volume in document["volumes"]:
        if volume["action"] == "keep":
            continue
        state = volume["state"]
        event = _DONE.get(volume["action"], state)
        fields = {
            "MESSAGE_ID": MESSAGE_IDS[event],
            "PRIORITY": _PRIORITIES.get(state, "6"),
            "SYSLOG_IDENTIFIER": "mountd",
            "MOUNTD_VOLUME": volume["name"],
            "MOUNTD_TARGET": volume["target"],
            "MOUNTD_SOURCE": volume["source"],
            "MOUNTD_ACTION": volume["action"],
            "MOUNTD_STATE": state,
            "MOUNTD_REASON": volume["reason"],
            "MOUNTD_PASS_ID": document["pass_id"],
        }
        wanted.append({key: value for key, value in fields.items() if value})
    records = journal.records()
    told = _told(records)
    messages = [each.pop("MESSAGE") for each in told]
    assert sorted(told, key=_by_items) == sorted(wanted, key=_by_items)
    assert {each["_TRANSPORT"] for each in records} == {"journal"}, "a line of stderr's came too"
    for message, record in zip(messages, told, strict=True):
        assert record["MOUNTD_VOLUME"] in message
    errors = [each["error"] for each in document["volumes"] if each["error"]]
    for error in errors:
        (message,) = (each for each in messages if error["message"] in each)
        assert f"hint: {error['hint']}" in message


def test_the_code_fields_are_the_only_other_ones(world: World, journal: Journal) -> None:
    make_every_state(world)
    journal.mountd("reconcile")
    fields = {key for each in journal.records() for key in each if not key.startswith("_")}
    others = {key for key in fields if not key.startswith(("MOUNTD_", "SYSLOG_"))}
    assert others <= {"MESSAGE", "MESSAGE_ID", "PRIORITY", "CODE_FILE", "CODE_LINE", "CODE_FUNC"}


def test_a_pass_with_nothing_to_do_leaves_no_record(world: World, journal: Journal) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    for _ in range(3):
        assert journal.mountd("reconcile").status == 0
    journal.mountd("status")
    journal.mountd("reconcile", "--dry-run", "--verbose")
    assert [each["MOUNTD_ACTION"] for each in journal.records()] == ["mount"]


def test_what_the_kernel_refused_has_its_errno(world: World, journal: Journal) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    world.reconcile()
    with subprocess.Popen(["cat"], cwd=world / "work", stdin=subprocess.PIPE):
        assert journal.mountd("unmount", "work").status == 1
    (record,) = journal.records()
    assert record["ERRNO"] == "16"
    assert record["MOUNTD_REASON"] == "busy"
    assert record["MOUNTD_ACTION"] == "unmount"
    assert _EVENTS[record["MESSAGE_ID"]] == record["MOUNTD_STATE"] == "failed"


def test_an_unmount_is_told_with_the_pass_that_it_belongs_to(
    world: World, journal: Journal
) -> None:
    make_every_state(world)
    document = journal.mountd("unmount", "--all", "--json").document
    records = journal.records()
    assert len(records) == len(document["volumes"]) > 5
    assert {each["MOUNTD_PASS_ID"] for each in records} == {document["pass_id"]}
    assert {_EVENTS[each["MESSAGE_ID"]] for each in records} == {"unmounted"}


def test_each_error_of_a_manifest_is_a_record(world: World, journal: Journal) -> None:
    world.write('[volumes.work]\nsorce = "/mnt/source"\ntarget = "work"\n')
    result = journal.mountd("reconcile", "--json")
    assert result.status == 78
    records = journal.records()
    assert len(records) == len(result.document["errors"]) == 3
    for record, error in zip(records, result.document["errors"], strict=True):
        assert _EVENTS[record["MESSAGE_ID"]] == "manifest-refused"
        assert record["PRIORITY"] == "3"
        assert record["MOUNTD_PASS_ID"] == result.document["pass_id"]
        assert error["message"] in record["MESSAGE"]
        assert f"{world.manifest}:{error['line']}:{error['column']}: error: " in record["MESSAGE"]


def test_a_pass_that_could_not_begin_is_a_record(world: World, journal: Journal) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    world.reconcile()
    with open(f"{world.state}/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert journal.mountd("reconcile", "--wait", "0").status == 75
    (record,) = journal.records()
    assert _EVENTS[record["MESSAGE_ID"]] == "pass-failed"
    assert record["PRIORITY"] == "3"
    assert f"pid {os.getpid()}" in record["MESSAGE"]


def test_a_quiet_pass_is_told_to_the_journal_all_the_same(world: World, journal: Journal) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    assert journal.mountd("reconcile", "--quiet").out == ""
    assert [each["MOUNTD_STATE"] for each in journal.records()] == ["mounted"]


def test_a_message_of_several_lines_is_one_record(world: World, journal: Journal) -> None:
    source = world.folder("source")
    target = world / "work"
    (target / "line\nbreak").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(target / "line\nbreak"))
    world.volumes(work={"source": source, "target": target})
    assert journal.mountd("reconcile").status == 1
    (record,) = journal.records()
    assert record["MOUNTD_REASON"] == "foreign-mount"


def test_what_the_kernel_refuses_has_its_step_and_what_that_was_made_on(
    world: World, journal: Journal
) -> None:
    (world / "ro").mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(world / "ro"))
    world.volumes(work={"source": world.folder("source"), "target": world / "ro/new"})
    assert journal.mountd("reconcile").status == 1
    (record,) = journal.records()
    assert (record["MOUNTD_REASON"], record["ERRNO"]) == ("read-only-filesystem", "30")
    assert (record["MOUNTD_STEP"], record["MOUNTD_OBJECT"]) == ("make the target", "/mnt/ro")


def test_without_systemds_library_the_journal_gets_lines(world: World, journal: Journal) -> None:
    (world / "broken/systemd").mkdir(parents=True)
    (world / "broken/systemd/__init__.py").write_text("raise ImportError('libsystemd.so.0')")
    make_every_state(world)
    path = [str(world / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    assert journal.mountd("reconcile", PYTHONPATH=os.pathsep.join(path)).status == 1
    records = journal.records()
    assert {each["_TRANSPORT"] for each in records} == {"stdout"}
    lines = [each["MESSAGE"] for each in records]
    assert "mounted: new at /mnt/to/new" in lines
    assert not [each for each in lines if "Traceback" in each or "ImportError" in each]


def test_a_message_that_is_too_long_for_the_socket_is_told_all_the_same(
    world: World, journal: Journal
) -> None:
    world.write(f'[volumes.work]\nsource = "{"é" * 300_000}"\ntarget = 5\n')
    assert journal.mountd("reconcile").status == 78
    assert [each for each in journal.records() if "target" in each["MESSAGE"]]


@pytest.mark.parametrize("stream", [None, "", "1:2", "journal", "0:0:0"])
def test_where_stderr_is_not_the_journals_it_gets_lines(
    world: World, journal: Journal, stream: str | None
) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    env = {} if stream is None else {"JOURNAL_STREAM": stream}
    result = world.mountd("reconcile", env=env)
    assert result.status == 0
    assert "mounted: work at /mnt/work\n" in result.err
    assert journal.records() == []


def test_an_inherited_stream_is_not_ours(world: World, journal: Journal) -> None:
    """A shell of a unit's has $JOURNAL_STREAM, and sends our stderr elsewhere."""
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    result = journal.mountd("reconcile", tells_stream=False)
    assert result.status == 0
    assert {each["_TRANSPORT"] for each in journal.records()} == {"stdout"}


def test_a_journald_that_is_gone_does_not_stop_a_pass(world: World, journal: Journal) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    os.rename(f"{SOCKETS}/socket", f"{SOCKETS}/gone")
    assert journal.mountd("reconcile").status == 0
    assert (world / "work/hello").exists()
    os.rename(f"{SOCKETS}/gone", f"{SOCKETS}/socket")


def test_message_ids_are_ids_and_differ() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in MESSAGE_IDS.values())
    assert len(_EVENTS) == len(MESSAGE_IDS)
