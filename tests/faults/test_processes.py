"""Processes that outlive a pass, and passes that outlive their time."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fuse_server import served
from volumes import make_plain
from watcher import do, eventually, watch
from world import MOUNTD, World


@pytest.mark.fault(11, "a pass that is killed while a child of its waits for a silent server")
@pytest.mark.fault(13, "the holder is killed while a child of its waits for a silent server")
def test_a_child_that_outlives_its_pass_holds_no_lock(world: World) -> None:
    make_plain(world, "work")
    (world / "fuse").mkdir()
    table = f'[volumes.hung]\nsource = "{world / "fuse/d"}"\ntarget = "{world / "hung"}"\n'
    with served(world / "fuse", {"/d": {}}, silent_while=world / "silent"):
        good = Path(world.manifest).read_text()
        world.write(f"{good}\n{table}")
        (world / "silent").touch()
        words = [MOUNTD, "reconcile", "-f", world.manifest, "--state-dir", world.state]
        with subprocess.Popen(words) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

            def is_waiting() -> bool:
                wchans = [Path("/proc", each, "wchan") for each in children.read_text().split()]
                return any("request_wait_answer" in each.read_text() for each in wchans)

            eventually(is_waiting)
            process.kill()
        world.write(good)
        result = world.reconcile("--wait", "0")
        assert result.volume("work")["state"] == "mounted"


@pytest.mark.fault(48, "what a stopping systemd unmounts just then")
def test_what_goes_as_a_watch_is_asked_to_end_is_not_put_back(world: World) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        os.kill(watcher.process.pid, signal.SIGSTOP)
        watcher.process.terminate()
        do(world, "umount work")
        os.kill(watcher.process.pid, signal.SIGCONT)
        assert watcher.process.wait(100) == 0
        assert not world.mounts()
        assert "drift" not in watcher.log
