"""What the machine runs out of, and what nobody foresaw, doesn't end `mountd watch`."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from volumes import is_mounted, make_plain
from watcher import do, eventually, watch
from world import MOUNTD, World, record_of, run

_WITHOUT_WATCHES = """
import os, sys, threading, time
from pathlib import Path
from mountd.watch.places import Places
from mountd.watch.glances import content

knob, file = Path("/proc/sys/user", sys.argv[1]), sys.argv[2]
was = knob.read_text()

def until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, places.trouble
        rung.wait(0.05)
        rung.clear()

rung = threading.Event()
places = Places(rung.set, rung.set)
knob.write_text("0")
for text in ("an edit", "another"):
    places.watch_edits({file: content(file)})
    Path(file).write_text(text)
    until(lambda: places.has_edit)
places.watch_edits({file: content(file)})
until(lambda: places.trouble)
assert f"user.{sys.argv[1]}, which is 0" in places.trouble, places.trouble
knob.write_text(was)
until(lambda: not places.trouble)
Path(file).write_text("a third")
until(lambda: places.has_edit)
"""


@pytest.mark.fault(6, "neither instances nor watches, and again some")
@pytest.mark.parametrize("knob", ["max_inotify_instances", "max_inotify_watches"])
def test_edits_are_seen_without_inotify_and_that_is_said_until_it_is_there_again(
    tmp_path: Path, knob: str
) -> None:
    (tmp_path / "file").write_text("")
    script = [sys.executable, "-c", _WITHOUT_WATCHES, knob, str(tmp_path / "file")]
    run("unshare", "--user", "--map-root-user", *script)


def test_a_name_that_is_not_utf_8_is_seen_and_costs_no_other_edit(world: World) -> None:
    odd = os.fsdecode(b"gr\xf6\xdfe")
    make_plain(world, "a")
    folder = Path(f"{world.manifest}.d")
    folder.mkdir()
    drop_in = folder / f"{odd}.toml"
    table = f'source = "{world / "source"}"\ntarget = "{world / "b"}"\nuser = "1000:1000"\n'
    drop_in.write_text(f"[volumes.b]\n{table}")
    with watch(world) as watcher:
        make_plain(world, "a", "c")
        eventually(lambda: is_mounted(world / "c"))
        drop_in.write_text(f"[volumes.d]\n{table.replace('/b', '/d')}")
        eventually(lambda: is_mounted(world / "d"))
        watcher.reload()
        drop_in.unlink()
        eventually(lambda: watcher.status == "2 volumes mounted")
        (folder / odd).write_text("")  # no drop-in: seen, and of no concern
        make_plain(world, "a")
        eventually(lambda: watcher.status == "1 volume mounted")
        assert watcher.stop() == 0


def test_a_manifest_and_a_state_directory_below_a_name_that_is_not_utf_8(world: World) -> None:
    odd = World(str(world / os.fsdecode(b"gr\xf6")))
    os.mkdir(odd.path)
    make_plain(world, "a")
    text = Path(world.manifest).read_text()
    Path(odd.manifest).write_text(text)
    with watch(odd) as watcher:
        Path(odd.manifest).write_text(text.replace("/mnt/a", "/mnt/b"))
        eventually(lambda: is_mounted(world / "b"))
        assert watcher.stop() == 0


@pytest.mark.fault(1, "with mounts that are there already")
def test_too_few_descriptors_damage_no_record_and_are_told(world: World) -> None:
    make_plain(world, "a", "b")
    assert world.reconcile().status == 0
    before = record_of(world)
    for most in range(5, 16):
        place = ["-f", world.manifest, "--state-dir", world.state]
        result = world.run(["prlimit", f"--nofile={most}", MOUNTD, "reconcile", *place])
        assert "Traceback" not in result.err
        assert result.status == 0 or "Too many open files" in result.err, result
        assert result.status != 78
    assert record_of(world) == before
    assert not [each for each in os.listdir(world.state) if "damaged" in each]


_SITE = """
import _thread, os, sys
sys.path.remove(os.path.dirname(__file__))
start = _thread.start_new_thread

def start_new_thread(*words):
    if os.path.exists("/mnt/no-threads"):
        raise RuntimeError("can't start new thread")
    return start(*words)

_thread.start_new_thread = start_new_thread
"""
_FAULTY = """
import os, sys
sys.path.remove(os.path.dirname(__file__))
from mountd.watch.upkeep import Upkeep
converge = Upkeep.converge

def faulty(self, manifest):
    if os.path.exists("/mnt/faulty"):
        raise KeyError("unforeseen")
    return converge(self, manifest)

Upkeep.converge = faulty
"""


def customized(world: World, text: str) -> Mapping[str, str]:
    """An environment in which Python begins with this."""
    (world / "site").mkdir()
    (world / "site/sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(world / "site")}


def test_without_threads_it_goes_on_and_has_them_again_when_there_are_any(world: World) -> None:
    make_plain(world, "a")
    (world / "no-threads").touch()
    with watch(world, env=customized(world, _SITE)) as watcher:
        eventually(lambda: "no thread can be started" in watcher.status)
        (world / "no-threads").unlink()
        eventually(lambda: is_mounted(world / "a"))
        watcher.reload()
        make_plain(world, "a", "b")
        eventually(lambda: is_mounted(world / "b"))
        eventually(lambda: watcher.status == "2 volumes mounted")
        (world / "no-threads").touch()
        watcher.reload()
        do(world, "umount a")
        (world / "no-threads").unlink()
        eventually(lambda: is_mounted(world / "a"))
        assert watcher.stop() == 0


def test_a_fault_of_our_own_is_said_once_and_what_is_there_stays(world: World) -> None:
    make_plain(world, "a")
    with watch(world, env=customized(world, _FAULTY)) as watcher:
        (world / "faulty").touch()
        make_plain(world, "a", "b")
        eventually(lambda: "a fault of mountd's own: KeyError: 'unforeseen'" in watcher.status)
        watcher.process.send_signal(1)
        assert is_mounted(world / "a")
        (world / "faulty").unlink()
        eventually(lambda: is_mounted(world / "b"))
        watcher.tells("a fault of mountd's own", 1)
        assert watcher.stop() == 0


def test_a_fault_of_our_own_at_the_start_doesnt_end_it_either(world: World) -> None:
    make_plain(world, "a")
    (world / "faulty").touch()
    with watch(world, env=customized(world, _FAULTY)) as watcher:
        assert "a fault of mountd's own" in watcher.status
        (world / "faulty").unlink()
        eventually(lambda: is_mounted(world / "a"))


def test_a_process_that_gives_no_thread_to_watchfiles_is_not_ended_by_it(tmp_path: Path) -> None:
    """notify 8 panics, and once more while that unwinds, which aborts: it must not be asked."""
    script = (
        "import mountd.watch.events as events\n"
        "from mountd.kernel.limits import NoThreadError\n"
        'def none(*_): raise RuntimeError("can\'t start new thread")\n'
        "events.start_new_thread = none\n"
        "try:\n"
        f"    with events.events_of([{str(tmp_path)!r}]): raise SystemExit('it was asked')\n"
        "except NoThreadError: pass\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
