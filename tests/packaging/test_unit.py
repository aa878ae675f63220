"""The unit as a distribution installs it, on a real systemd: one that has booted in a container."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from container import Container, Machines, until
from package import PROJECT
from world import Mount, mount_id, owner

from mountd.report.journal import MESSAGE_IDS

_MANIFEST = "/etc/mountd.toml"
_UNITS = "/run/systemd/system"
_DROP_IN = f"{_UNITS}/mountd.service.d/test.conf"
_EVENTS = {each: event for event, each in MESSAGE_IDS.items()}
_NODE = (1000, 1000)


def volume(name: str, **keys: str) -> str:
    """A volume's table: its source and target are named after it, and its user is node."""
    keys = {"source": f"/srv/{name}", "target": f"/opt/{name}", "user": "node", **keys}
    lines = [f'{key} = "{value}"' for key, value in keys.items() if value]
    return "\n".join([f"[volumes.{name}]", *lines, ""])


class Unit:
    """mountd.service on a machine, and what the machine sees of its work."""

    def __init__(self, machine: Container) -> None:
        self.machine = machine
        last = machine.journal("--lines=1")[0]["__CURSOR"]
        self.since = f"--after-cursor={last}"
        """For journalctl: what was told since the test began."""

    def start(self, *tables: str) -> None:
        """Start it on a manifest of these tables; on none without."""
        if tables:
            self.write(*tables)
        self.machine.run("systemctl", "start", "mountd")

    def write(self, *tables: str, path: str = _MANIFEST) -> None:
        """Write the manifest in place."""
        self.machine.write(path, "\n".join(tables))

    def configure(self, *lines: str) -> None:
        """Change the unit, which isn't running, by a drop-in."""
        self.machine.write(_DROP_IN, "\n".join(["[Service]", *lines, ""]))
        self.machine.run("systemctl", "daemon-reload")

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.machine.show("mountd", name)

    @property
    def status(self) -> str:
        """The line that `systemctl status` shows."""
        return self.show("StatusText")

    @property
    def pid(self) -> int:
        """Its main process, as the container has it."""
        return int(self.show("MainPID"))

    def kill(self, number: signal.Signals) -> None:
        """Send its main process a signal."""
        self.machine.run(
            "systemctl", "kill", "--kill-whom=main", f"--signal={number.name}", "mountd"
        )

    def seen(self, name: str) -> Path:
        """Where a volume appears."""
        return self.machine / f"/opt/{name}"

    def mounts(self, name: str) -> list[Mount]:
        """What is mounted where a volume appears, as PID 1 sees it."""
        return [each for each in self.machine.mounts() if each.point == f"/opt/{name}"]

    def is_mounted(self, name: str) -> bool:
        """Whether a volume's files are node's where it appears, by one mount."""
        return len(self.mounts(name)) == 1 and owner(self.seen(name) / "hello") == _NODE

    def told(self, event: str | None = None) -> list[dict[str, Any]]:
        """The journal's records of mountd since the test began, of this kind of event."""
        records = self.machine.journal(self.since, "SYSLOG_IDENTIFIER=mountd")
        return [
            each for each in records if not event or each.get("MESSAGE_ID") == MESSAGE_IDS[event]
        ]

    def results(self) -> list[str]:
        """How systemd found the runs to end that it calls failed, since the test began."""
        records = self.machine.journal(self.since, "UNIT=mountd.service")
        return [each["UNIT_RESULT"] for each in records if "UNIT_RESULT" in each]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    return Machines(tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def machine(machines: Machines) -> Iterator[Container]:
    with machines.booted() as machine:
        machine.run("systemctl", "stop", "mountd")
        yield machine


@pytest.fixture
def unit(machine: Container) -> Iterator[Unit]:
    """The unit, stopped, on a machine with no manifest, and two sources."""
    for name in ("work", "more"):
        machine.folder(f"/srv/{name}")
    yield Unit(machine)
    tidy(machine)


def tidy(machine: Container) -> None:
    """Leave nothing of a test's behind."""
    machine.run("systemctl", "stop", "mountd")
    machine.call("systemctl", "reset-failed", "mountd")
    machine.call("mountd", "unmount", "--all")
    for each in reversed(machine.mounts()):
        if each.point.startswith(("/opt/", "/srv/")):
            machine.call("umount", "--lazy", each.point)
    machine.run("sh", "-c", f"rm -rf {_MANIFEST}* /srv/* /opt/* /run/mountd")
    machine.run("sh", "-c", f"mount --make-shared /; rm -rf {_UNITS}/*")
    machine.run("systemctl", "daemon-reload")


# start


def test_a_started_unit_has_mounted(unit: Unit) -> None:
    unit.start(volume("work"), volume("more"))
    assert unit.is_mounted("work") and unit.is_mounted("more")
    assert unit.status == "2 volumes mounted"
    assert [each["MOUNTD_VOLUME"] for each in unit.told("mounted")] == ["work", "more"]


def test_what_the_user_creates_is_stored_as_the_owners(unit: Unit) -> None:
    unit.start(volume("work"))
    unit.machine.run(
        *["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "touch", "/opt/work/new"]
    )
    assert owner(unit.seen("work") / "new") == _NODE
    assert owner(unit.machine / "/srv/work/new") == (501, 20)


def test_a_unit_whose_volume_fails_is_started(unit: Unit) -> None:
    unit.start(volume("work"), volume("late"))
    assert unit.is_mounted("work")
    assert unit.show("ActiveState") == "active"
    assert unit.status.startswith("1 of 2 mounted; late: ")
    unit.machine.folder("/srv/late")
    until(lambda: unit.is_mounted("late"), "a source that appears is mounted")
    until(lambda: unit.status == "2 volumes mounted", unit.status)


def test_a_missing_manifest_is_waited_for(unit: Unit) -> None:
    unit.start()
    assert unit.show("ActiveState") == "active"
    assert unit.status.startswith("waiting for a manifest")
    (record,) = unit.told("manifest-missing")
    assert record["PRIORITY"] == "5"
    assert record["MESSAGE"].startswith(_MANIFEST)
    unit.write(volume("work"))
    until(lambda: unit.is_mounted("work"))
    until(lambda: unit.status == "1 volume mounted")


def test_a_wrong_manifest_at_the_start_is_an_end(unit: Unit) -> None:
    unit.write("[volumes.work]\nsorce = 1\n")
    assert unit.machine.call("systemctl", "start", "mountd").status == 1
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("exit-code", "78")
    assert unit.show("ActiveState") == "failed", "it is tried again"
    assert f"{_MANIFEST}:2:1: error: " in "".join(each["MESSAGE"] for each in unit.told())


@pytest.mark.fault(44, "directives of a unit")
@pytest.mark.parametrize(
    "line",
    [
        "PrivateTmp=yes",
        "PrivateMounts=yes",
        "PrivateDevices=yes",
        "ProtectSystem=full",
        "ProtectHome=read-only",
        "ProtectKernelTunables=yes",
        "ReadOnlyPaths=/srv",
        "MountFlags=slave",
    ],
)
def test_in_a_mount_namespace_of_its_own_it_refuses_to_run(unit: Unit, line: str) -> None:
    unit.configure(line)
    unit.write(volume("work"))
    assert unit.machine.call("systemctl", "start", "mountd").status == 1
    assert (unit.show("ExecMainStatus"), unit.show("ActiveState")) == ("77", "failed")
    (record,) = unit.told("confined")
    assert record["PRIORITY"] == "3"
    showing, finding = re.findall(r"`(systemctl [^`]*)`", record["MESSAGE"])
    shown = unit.machine.run(*showing.split()).splitlines()
    assert line in shown or line.partition("=")[0] not in showing
    assert line in unit.machine.run(*finding.split())
    assert not unit.mounts("work")


def test_without_the_privilege_to_mount_it_refuses_to_run(unit: Unit) -> None:
    unit.configure("CapabilityBoundingSet=~CAP_SYS_ADMIN")
    unit.write(volume("work"))
    assert unit.machine.call("systemctl", "start", "mountd").status == 1
    assert (unit.show("ExecMainStatus"), unit.show("ActiveState")) == ("77", "failed")


# edits


def _in_place(unit: Unit, text: str) -> None:
    unit.write(text)


def _by_rename(unit: Unit, text: str) -> None:
    unit.write(text, path=f"{_MANIFEST}.new")
    os.replace(unit.machine / f"{_MANIFEST}.new", unit.machine / _MANIFEST)


def _by_drop_in(unit: Unit, text: str) -> None:
    unit.write(text, path=f"{_MANIFEST}.d/more.toml")


@pytest.mark.parametrize("save", [_in_place, _by_rename, _by_drop_in])
def test_an_edit_is_applied(unit: Unit, save: Callable[[Unit, str], None]) -> None:
    unit.start(volume("work"))
    unmoved = mount_id(unit.seen("work"))
    save(unit, volume("work") + volume("more"))
    until(lambda: unit.is_mounted("more"))
    until(lambda: unit.status == "2 volumes mounted")
    assert mount_id(unit.seen("work")) == unmoved


def test_a_volume_that_leaves_the_manifest_is_unmounted(unit: Unit) -> None:
    unit.start(volume("work"), volume("more"))
    unit.write(volume("work"))
    until(lambda: not unit.mounts("more"))
    until(lambda: unit.status == "1 volume mounted")


def test_a_bad_edit_changes_nothing_and_is_told_until_it_is_mended(unit: Unit) -> None:
    unit.start(volume("work"))
    unmoved = mount_id(unit.seen("work"))
    unit.write(volume("work", color="red"))
    where = f"{_MANIFEST}:5:1: error: "
    until(lambda: where in unit.status)
    unit.machine.call("systemctl", "reload", "mountd")  # which doesn't tell it once more
    assert mount_id(unit.seen("work")) == unmoved
    assert where in unit.status
    (refused,) = unit.told("manifest-refused")
    assert refused["MESSAGE"].startswith(where)
    assert refused["PRIORITY"] == "3"
    unit.write(volume("work"), volume("more"))
    until(lambda: unit.is_mounted("more"))
    until(lambda: unit.status == "2 volumes mounted")
    assert [each["PRIORITY"] for each in unit.told("manifest-mended")] == ["6"]
    assert mount_id(unit.seen("work")) == unmoved


def test_a_manifest_that_is_deleted_stays_in_force(unit: Unit) -> None:
    unit.start(volume("work"))
    unmoved = mount_id(unit.seen("work"))
    (unit.machine / _MANIFEST).unlink()
    (record,) = until(lambda: unit.told("manifest-missing"))
    assert record["PRIORITY"] == "4"
    unit.machine.run("umount", "/opt/work")
    until(lambda: unit.is_mounted("work"))
    assert mount_id(unit.seen("work")) != unmoved


# drift


@pytest.mark.parametrize(
    "change",
    [
        "umount /opt/work",
        "mount -o remount,bind,ro /opt/work",
        "mkdir /opt/away; mount --make-private /; mount --move /opt/work /opt/away",
    ],
    ids=["umount", "remount", "move"],
)
def test_what_somebody_changed_is_repaired(unit: Unit, change: str) -> None:
    unit.start(volume("work"))
    before = unit.mounts("work")
    unit.machine.run("sh", "-c", change)
    until(lambda: unit.told("drifted"), "drift is told")
    until(lambda: unit.is_mounted("work"))
    until(lambda: unit.mounts("work")[0].options == before[0].options)
    until(lambda: len([each for each in unit.machine.mounts() if each.root == before[0].root]) == 1)
    records = unit.told("drifted")
    assert [(each["PRIORITY"], each["MOUNTD_TARGET"]) for each in records] == [("5", "/opt/work")]


def test_what_covers_a_volume_is_left_and_told_once(unit: Unit) -> None:
    unit.start(volume("work"))
    unit.machine.run("mount", "-t", "tmpfs", "cover", "/opt/work")
    until(lambda: unit.status.startswith("0 of 1 mounted; work: "), unit.status)
    unit.machine.run("systemctl", "reload", "mountd")
    (record,) = unit.told("conflict")
    assert record["MOUNTD_REASON"] == "foreign-mount"
    unit.machine.run("umount", "/opt/work")
    until(lambda: unit.told("recovered"))
    until(lambda: unit.status == "1 volume mounted")
    assert unit.is_mounted("work")


def test_who_keeps_undoing_a_mount_is_told_once_and_waited_for(unit: Unit) -> None:
    unit.start(volume("work"))

    def undo() -> bool:
        unit.machine.call("umount", "/opt/work")
        return unit.status.startswith("0 of 1 mounted; work: ")

    until(undo)
    (record,) = unit.told("undone")
    assert (record["PRIORITY"], record["MOUNTD_TARGET"]) == ("4", "/opt/work")
    unit.machine.run("systemctl", "reload", "mountd")
    assert unit.is_mounted("work")
    assert len(unit.told("undone")) == 1


def test_raw_ids_are_told_once(unit: Unit) -> None:
    unit.machine.folder("/srv/over")
    layers = "lowerdir=/srv/over:/srv/work"
    unit.machine.run("mount", "-t", "overlay", "-o", layers, "overlay", "/srv/over")
    unit.start(volume("over", idmap="always"))
    unit.machine.run("systemctl", "reload", "mountd")
    assert owner(unit.seen("over") / "hello") == (501, 20)
    (record,) = unit.told("fallback")
    assert (record["PRIORITY"], record["MOUNTD_REASON"]) == ("4", "filesystem-refuses")
    assert unit.status == "1 volume mounted, 1 of them with raw ids"


# reload


def test_a_reload_returns_when_the_edit_is_in_force(unit: Unit) -> None:
    unit.start(volume("work"))
    for turn in range(5):
        tables = [volume("work"), volume("more")][: 2 - turn % 2]
        unit.write(*tables)
        unit.machine.run("systemctl", "reload", "mountd")
        assert unit.is_mounted("more") == (len(tables) == 2)
        assert unit.status in ("1 volume mounted", "2 volumes mounted")


def test_a_reload_looks_at_what_no_event_tells(unit: Unit) -> None:
    unit.start(volume("work"))
    for path in ("/srv/work", "/srv/work/hello"):
        os.chown(unit.machine / path, 777, 778)
    unit.machine.run("systemctl", "reload", "mountd")
    assert unit.is_mounted("work")


# stop


@pytest.mark.parametrize("words", [["stop"], ["restart"], ["kill", "--signal=TERM"]])
def test_mounts_stay_when_it_stops(unit: Unit, words: list[str]) -> None:
    unit.start(volume("work"))
    unmoved = mount_id(unit.seen("work"))
    unit.machine.run("systemctl", *words, "mountd")
    end = "active" if words == ["restart"] else "inactive"
    until(lambda: unit.show("ActiveState") == end)
    assert (unit.show("Result"), unit.results()) == ("success", [])
    assert unit.show("ExecMainStatus") == "0"
    unit.machine.run("systemctl", "start", "mountd")
    assert mount_id(unit.seen("work")) == unmoved
    assert len(unit.told("mounted")) == 1


@pytest.mark.parametrize(
    ("number", "result"), [(signal.SIGKILL, "signal"), (signal.SIGSTOP, "watchdog")]
)
def test_one_that_dies_or_hangs_is_started_again_and_mounts_stay(
    unit: Unit, number: signal.Signals, result: str
) -> None:
    unit.configure("WatchdogSec=2s", "RestartSec=100ms")
    unit.start(volume("work"))
    first, unmoved = unit.pid, mount_id(unit.seen("work"))
    unit.kill(number)
    until(lambda: unit.show("NRestarts") == "1" and unit.show("ActiveState") == "active")
    assert unit.results() == [result]
    assert unit.pid != first
    assert mount_id(unit.seen("work")) == unmoved
    unit.machine.run("umount", "/opt/work")
    until(lambda: unit.is_mounted("work"), "the new one watches too")


def test_the_watchdog_is_fed_while_nothing_happens(unit: Unit) -> None:
    unit.configure("WatchdogSec=1s")
    unit.start(volume("work"))
    told = "WatchdogTimestampMonotonic"
    first = int(unit.show(told))
    until(lambda: int(unit.show(told)) > first + 3_000_000)  # µs: as long as three dogs' patience
    assert (unit.show("NRestarts"), unit.results()) == ("0", [])


def test_while_it_runs_no_one_else_takes_its_mounts_off(unit: Unit) -> None:
    unit.start(volume("work"))
    for command in (["unmount", "--all"], ["watch"]):
        assert unit.machine.call("mountd", *command).status == 75
    assert unit.machine.call("mountd", "status").status == 0
    assert unit.is_mounted("work")


# boot and shutdown


def test_a_credential_alone_is_mounted_at_boot(machines: Machines) -> None:
    given = '[volumes.work]\ntype = "tmpfs"\nsource = "none"\noptions = ["uid=501", "gid=20"]\n'
    text = f'{given}target = "/opt/work"\nuser = "node"\n'.replace("\n", "\\n")
    with machines.booted(f"--set-credential=mountd.toml:{text}") as machine:
        assert machine.show("mountd", "ActiveState") == "active"
        assert machine.show("mountd", "StatusText") == "1 volume mounted"
        assert owner(machine / "/opt/work") == _NODE
        ready, sessions = (
            int(machine.show(name, f"{what}TimestampMonotonic"))
            for name, what in (
                ("mountd", "ActiveEnter"),
                ("systemd-user-sessions", "ExecMainStart"),
            )
        )
        assert 0 < ready <= sessions, "a user could come before the mounts"


@pytest.mark.fault(48, "poweroff")
def test_at_shutdown_nothing_is_put_back(machines: Machines) -> None:
    with machines.booted() as machine:
        for name in ("work", "more"):
            machine.folder(f"/srv/{name}")
        machine.write(_MANIFEST, volume("work") + volume("more"))
        machine.run("systemctl", "reload", "mountd")
        mounts = ("opt-work.mount", "opt-more.mount")
        until(lambda: all(machine.show(each, "ActiveState") == "active" for each in mounts))
        since = f"--after-cursor={machine.journal('--lines=1')[0]['__CURSOR']}"
        machine.run("systemctl", "poweroff")
        until(lambda: not machine.root.exists())
        records = machine.journal(since)
    stopped = [each for each in records if each.get("JOB_TYPE") == "stop"]
    ended = [each["UNIT"] for each in stopped if each.get("JOB_RESULT") == "done"]
    assert ended.index("mountd.service") < min(map(ended.index, mounts))
    assert not [each for each in records if each.get("SYSLOG_IDENTIFIER") == "mountd"]
    results = {each["UNIT"] for each in records if "UNIT_RESULT" in each}
    assert not results & {"mountd.service", *mounts}


def test_a_workload_finds_its_mount(unit: Unit) -> None:
    """One that has the drop-in of the example, which starts the unit for it."""
    machine = unit.machine
    drop_in = (PROJECT / "examples/workload.conf").read_text()
    drop_in = drop_in.replace("/home/node/workspace", "/opt/work")
    machine.write(f"{_UNITS}/app.service.d/mountd.conf", drop_in)
    service = "[Service]\nType=oneshot\nExecStart=sh -c 'stat --format=%%u:%%g /opt/work/hello'\n"
    machine.write(f"{_UNITS}/app.service", service)
    machine.run("systemctl", "daemon-reload")
    assert machine.call("systemctl", "start", "app").status == 1, "it began without its mount"
    machine.run("systemctl", "stop", "mountd")
    unit.write(volume("work"))
    machine.run("systemctl", "start", "app")
    told = machine.journal(unit.since, "_SYSTEMD_UNIT=app.service")
    assert [each["MESSAGE"] for each in told] == ["1000:1000"]


# the journal


def test_each_record_has_its_fields(unit: Unit) -> None:
    unit.start(volume("work"), volume("late"))
    unit.machine.run("umount", "/opt/work")
    until(lambda: unit.is_mounted("work"))
    unit.write("[volumes]\nwork = 1\n")
    until(lambda: unit.told("manifest-refused"))
    records = unit.told()
    assert {_EVENTS[each["MESSAGE_ID"]] for each in records} == {
        "watching",
        "mounted",
        "pending",
        "drifted",
        "manifest-refused",
    }
    for each in records:
        assert each["_TRANSPORT"] == "journal"
        assert each["_SYSTEMD_UNIT"] == "mountd.service"
        event = _EVENTS[each["MESSAGE_ID"]]
        if event in ("mounted", "pending"):
            name = each["MOUNTD_VOLUME"]
            wanted = {
                "MOUNTD_TARGET": f"/opt/{name}",
                "MOUNTD_SOURCE": f"/srv/{name}",
                "MOUNTD_STATE": event,
                "MOUNTD_ACTION": "mount" if event == "mounted" else None,
                "MOUNTD_REASON": "no-source" if event == "pending" else None,
            }
            assert {key: each.get(key) for key in wanted} == wanted
        if event != "watching":
            assert len(each["MOUNTD_PASS_ID"]) == 32


def test_the_journal_explains_every_record(unit: Unit) -> None:
    unit.start(volume("work"), volume("late"))
    shown = unit.machine.run("journalctl", "-x", "-u", "mountd", "-b", "-n", "10")
    (pending,) = unit.told("pending")
    _, _, after = shown.partition(pending["MESSAGE"].splitlines()[0])
    assert "░░ Subject: " in after.split("mountd[")[0]


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_the_catalogue_has_an_entry(machine: Container, event: str) -> None:
    entry = machine.run("journalctl", "--dump-catalog", MESSAGE_IDS[event])
    assert f"-- {MESSAGE_IDS[event]}" in entry
    assert "Subject: " in entry
    assert "Defined-By: mountd" in entry


# confinement


@pytest.mark.fault(47, "those that the unit keeps")
def test_its_capabilities_suffice(unit: Unit) -> None:
    """Each is needed here: for sources in others' folders, targets there, maps, and who is busy."""
    machine = unit.machine
    machine.folder("/srv/locked").chmod(0o700)
    machine.folder("/srv/locked/work")
    machine.folder("/opt/node", *_NODE).chmod(0o700)
    machine.folder("/opt/root", 0, 0).chmod(0o555)
    places = [f"/opt/{each}/new/work" for each in ("node", "root")]
    tables = [volume(each.split("/")[2], source="/srv/locked/work", target=each) for each in places]
    unit.start(*tables)
    assert [owner(machine / each / "hello") for each in places] == [_NODE, _NODE]
    assert [owner((machine / each).parent) for each in places] == [_NODE, (0, 0)]
    machine.run(
        *("systemd-run", "--quiet", "--uid=node", "--unit=holder"),
        *(f"--working-directory={places[0]}", "sleep", "infinity"),
    )
    unit.write(tables[1])
    (record,) = until(lambda: unit.told("failed"))
    machine.run("systemctl", "stop", "holder")
    assert (record["MOUNTD_REASON"], record["ERRNO"]) == ("busy", "16")
    assert "sleep (pid " in record["MESSAGE"]


def test_a_source_that_hangs_costs_its_own_volume_alone(unit: Unit) -> None:
    unit.configure("WatchdogSec=2s")
    machine = unit.machine
    machine.folder("/srv/real")
    (machine / "srv/hung").mkdir()
    machine.run(
        *("systemd-run", "--quiet", "--unit=server", "--service-type=forking"),
        *("bindfs", "/srv/real", "/srv/hung"),
    )
    try:
        machine.run("systemctl", "kill", "--signal=STOP", "server")
        unit.start(volume("hung", user=""), volume("work"))
        assert unit.is_mounted("work")
        (record,) = until(lambda: unit.told("failed") + unit.told("pending"))
        assert (record["MOUNTD_VOLUME"], record["MOUNTD_REASON"]) == ("hung", "not-answering")
        told = "WatchdogTimestampMonotonic"
        first = int(unit.show(told))
        until(lambda: int(unit.show(told)) > first + 2_500_000)
        assert unit.results() == []
        unit.machine.run("systemctl", "restart", "mountd")
        assert unit.results() == []
        machine.run("systemctl", "kill", "--signal=CONT", "server")
        until(lambda: len(unit.mounts("hung")) == 1, "it answers again")
        until(lambda: unit.status == "2 volumes mounted")
    finally:
        machine.call("systemctl", "kill", "--signal=CONT", "server")


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Container) -> None:
    path = "/usr/lib/systemd/system/mountd.service"
    result = machine.call("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path)
    assert (result.status, result.out + result.err) == (0, "")


def test_the_unit_says_why_of_all_that_systemd_finds_exposed(machine: Container) -> None:
    unit = (machine / "/usr/lib/systemd/system/mountd.service").read_text()
    found = machine.run("systemd-analyze", "security", "--json=short", "mountd.service")
    exposed = [each["name"] for each in json.loads(found) if each["exposure"]]
    reasons = "".join(line for line in unit.splitlines() if line.startswith("#"))
    absent = "|".join(re.findall(r"([\w.]+)=", reasons)).replace("...", r"\w+")
    for name in exposed:
        setting, _, allowed = name.partition("=~")
        if allowed:
            assert f"\n{setting}=" in unit, name
            assert allowed in reasons or not allowed.startswith("@"), name
        for each in () if allowed else name.split("/"):
            assert re.fullmatch(absent, each.rstrip("=")), name
    for capability in re.findall(r"\bCAP_(\w+)", unit):
        assert capability in reasons


@pytest.mark.fault(46, "systemd's own")
def test_where_systemd_filters_the_newer_calls_it_works_by_mountinfo(machines: Machines) -> None:
    with machines.booted(is_filtered=True) as machine:
        for name in ("work", "more"):
            machine.folder(f"/srv/{name}")
        unit = Unit(machine)
        unit.write(volume("work"))
        unit.machine.run("systemctl", "reload", "mountd")
        assert unit.is_mounted("work")
        machine.run("umount", "/opt/work")
        until(lambda: unit.is_mounted("work"))
        machine.run("mount", "-o", "remount,bind,ro", "/opt/work")
        until(lambda: "rw" in unit.mounts("work")[0].options)
        unit.write(volume("work"), volume("more"))
        machine.run("systemctl", "reload", "mountd")
        assert unit.is_mounted("more")


def test_the_readmes_commands_install_it(machines: Machines) -> None:
    readme = (PROJECT / "README.md").read_text()
    (commands,) = (
        each for each in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "install -D" in each
    )
    with machines.booted() as machine:
        machine.run("systemctl", "disable", "--now", "mountd")
        for path in (
            "system/mountd.service",
            "system-preset/80-mountd.preset",
            "catalog/mountd.catalog",
        ):
            (machine / "/usr/lib/systemd" / path).unlink()
        shutil.copytree(PROJECT / "units", machine / "/root/units")
        machine.folder("/srv/work")
        machine.write(_MANIFEST, volume("work"))
        machine.run("sh", "-euc", f"cd /root\n{commands}")
        assert owner(machine / "/opt/work/hello") == _NODE
        assert machine.show("mountd", "UnitFileState") == "enabled"
        assert "mountd" in machine.run("journalctl", "--list-catalog", MESSAGE_IDS["mounted"])
