"""What a server leaves unanswered, once it has taken the request: no process can be freed of that.

It costs its own volumes alone, and no pass, no watch and none that comes after it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuse_server import WRITE, served
from volumes import is_mounted
from watcher import eventually, watch
from world import MOUNTD, World, run, running

from mountd.kernel.files import openat2, statx
from mountd.kernel.observe import observe
from mountd.kernel.paths import open_path, spot
from mountd.kernel.served import ServedError
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

GUEST = "1000:1000"


def silence(world: World) -> Path:
    """While it is there, the server that is told of it is silent."""
    return world / "silent"


@contextmanager
def freed(world: World) -> Iterator[None]:
    """What waits at the end may go."""
    try:
        yield
    finally:
        silence(world).unlink(missing_ok=True)


@pytest.mark.fault(28, "after each number of answers")
@pytest.mark.parametrize("answers", [0, 4, 8, 10, 11, 12, 13, 14, 16])
def test_a_server_that_falls_silent_at_any_time_costs_its_own_volume(
    world: World, answers: int
) -> None:
    world.folder("source")
    home = world.folder("home", owner=(1000, 1000))
    files = {"/d": {"uid": 1000}, "/d/t": {"uid": 1000}}
    (home / "mnt").mkdir()
    world.volumes(
        a={"source": "$/source", "target": "$/home/mnt/d/t", "user": GUEST},
        b={"source": "$/source", "target": "$/b", "user": GUEST},
    )
    with served(home / "mnt", files, silent_after=answers):
        result = world.mountd("reconcile", "--json")
        assert result.volume("b")["state"] == "mounted"
        fell = result.volume("a")
        if fell["state"] != "mounted":
            assert (fell["state"], fell["reason"]) == ("failed", "not-answering")
        world.volumes(b={"source": "$/source", "target": "$/b", "user": GUEST})
        assert world.mountd("reconcile", "--json").volume("b")["action"] == "keep"


def test_what_hangs_keeps_no_process_from_ending_and_none_from_starting(world: World) -> None:
    world.folder("source")
    (world / "mnt").mkdir()
    world.volumes(
        a={"source": "$/mnt/d", "target": "$/a", "user": GUEST},
        b={"source": "$/source", "target": "$/b", "user": GUEST},
    )
    flag = silence(world)
    files = {"/": {"uid": 501}, "/d": {"uid": 501}}
    with served(world / "mnt", files, silent_while=flag), freed(world):
        flag.touch()
        result = world.mountd("reconcile", "--json")
        assert result.volume("a")["reason"] == "not-answering"
        assert is_mounted(world / "b")
        with watch(world) as watcher:
            assert watcher.status.startswith("1 of 2 mounted; a: no answer")
            assert watcher.stop() == 0
        with watch(world) as watcher:
            assert watcher.status.startswith("1 of 2 mounted; a: no answer")
            watcher.process.kill()
            watcher.process.wait()
        with watch(world) as watcher:
            assert watcher.status.startswith("1 of 2 mounted; a: no answer")
            assert watcher.stop() == 0


def test_a_server_that_answers_again_is_asked_again(world: World) -> None:
    (world / "mnt").mkdir()
    world.volumes(a={"source": "$/mnt/d", "target": "$/a"})
    flag = silence(world)
    files = {"/": {"uid": 501}, "/d": {"uid": 501}}
    with served(world / "mnt", files, silent_while=flag) as pid:
        flag.touch()
        with watch(world) as watcher:
            assert watcher.status.startswith("0 of 1 mounted; a: no answer")
            os.kill(pid, signal.SIGKILL)
            run("umount", "-l", str(world / "mnt"))
            flag.unlink()
            with served(world / "mnt", files):
                eventually(lambda: watcher.status == "1 volume mounted")
                assert watcher.stop() == 0


def test_accounts_on_a_silent_server_cost_their_volume_alone(world: World) -> None:
    world.folder("source")
    (world / "mnt").mkdir()
    world.volumes(
        a={"source": "$/source", "target": "$/a", "user": "node", "accounts": "$/mnt"},
        b={"source": "$/source", "target": "$/b", "user": GUEST},
    )
    flag = silence(world)
    passwd = {"/etc": {}, "/etc/passwd": {"data": "node:x:1000:1000::/:/bin/sh\n"}}
    with served(world / "mnt", passwd, silent_while=flag), freed(world):
        assert world.mountd("reconcile", "--json").volume("a")["state"] == "mounted"
        flag.touch()
        for command in ("status", "check", "reconcile"):
            result = world.mountd(command, "--json")
            assert result.volume("a")["reason"] == "not-answering", command
            assert result.volume("b")["state"] == "mounted"
        assert world.mountd("explain", "a").status == 0


HOLD = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
shared = mmap.mmap(file, 4096, mmap.MAP_SHARED)
shared[0] = 1
print("dirty", flush=True)
mmap.mmap(file, 4096, mmap.MAP_PRIVATE)  # waits for the write-back, and holds its mmap lock
"""


def test_who_holds_a_mount_is_found_beside_a_process_that_cannot_be_looked_into(
    world: World,
) -> None:
    world.folder("source")
    (world / "mnt").mkdir()
    world.volumes(a={"source": "$/source", "target": "$/a", "user": GUEST})
    world.reconcile()
    world.volumes(b={"source": "$/source", "target": "$/b", "user": GUEST})
    files = {"/f": {"data": "x" * 4096, "mode": 0o666}}
    command = [sys.executable, "-c", HOLD, str(world / "mnt/f")]
    with (
        served(world / "mnt", files, silent_to=[WRITE], direct=True),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stuck,
        running("sh", "-c", "echo in; read line", cwd=world / "a") as busy,
    ):
        try:
            assert stuck.stdout
            assert stuck.stdout.readline() == "dirty\n"
            eventually(lambda: Path(f"/proc/{stuck.pid}/stat").read_text().split()[2] == "D")
            message = world.reconcile(status=1).volume("a")["error"]["message"]
            assert f"is in use by sh (pid {busy.pid})" in message
            assert "there may be others" in message
            assert is_mounted(world / "b")
        finally:
            stuck.kill()
            run("umount", "-f", str(world / "mnt"), check=False)  # which frees it


def test_a_manifest_on_a_server_that_falls_silent_stays_in_force(world: World) -> None:
    world.folder("source")
    (world / "share").mkdir()
    text = '[volumes.a]\nsource = "/mnt/source"\ntarget = "/mnt/a"\nuser = "1000:1000"\n'
    flag = silence(world)
    with served(world / "share", {"/m.toml": {"data": text}}, user=0, silent_while=flag):
        world.manifest = f"{world.path}/share/m.toml"
        with freed(world), watch(world) as watcher:
            assert watcher.status == "1 volume mounted"
            flag.touch()
            run("umount", str(world / "a"))
            eventually(lambda: is_mounted(world / "a"))
            watcher.reload()
            eventually(lambda: "no answer within" in watcher.status)
            assert "the last good manifest is in force" in watcher.status
            result = world.mountd("status", "--json")
            assert result.status == 78
            assert "no answer within" in result.document["errors"][0]["message"]
            assert world.mountd("reconcile").status == 78
            assert watcher.stop() == 0


def test_the_state_directory_may_be_on_no_server(world: World) -> None:
    world.folder("source")
    (world / "share").mkdir()
    world.volumes(a={"source": "$/source", "target": "$/a"})
    with served(world / "share", {"/state": {}}, user=0):
        world.state = f"{world.path}/share/state"
        result = world.mountd("reconcile")
        assert result.status == 1
        assert "lies on a filesystem that a server keeps" in result.err
        assert "--state-dir" in result.err


def test_nothing_is_asked_of_a_server_that_came_after_the_look_at_the_mounts(
    world: World,
) -> None:
    (world / "home/mnt").mkdir(parents=True)
    (world / "home/link").symlink_to("mnt/d")
    observe()
    flag = silence(world)
    with served(world / "home/mnt", {"/d": {}, "/d/e": {}}, silent_while=flag), freed(world):
        flag.touch()
        point = str(world / "home/mnt")
        for path in (f"{point}/d", f"{point}/d/e", str(world / "home/link")):
            with pytest.raises(ServedError):
                openat2(None, path, os.O_PATH, 0)
        for look in (spot, open_path):
            with pytest.raises(ServedError):
                look(f"{point}/d/e")
        with Fd(os.open(world / "home", os.O_PATH)) as home:
            assert statx(home, "mnt", flags=AT_STATX_DONT_SYNC).is_mount_root
            with pytest.raises(ServedError):
                statx(home, "mnt")
            with openat2(home, "mnt", os.O_PATH, 0) as root:
                with pytest.raises(ServedError):
                    statx(root)
                with pytest.raises(ServedError):
                    openat2(root, "d", os.O_PATH, 0)
        with pytest.raises(ServedError):
            openat2(None, point, os.O_RDONLY | os.O_DIRECTORY, 0)


def test_a_pass_that_meets_no_server_makes_no_process(world: World) -> None:
    world.folder("source")
    world.volumes(a={"source": "$/source", "target": "$/a/b", "user": GUEST})
    words = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=fork,vfork,clone,clone3",
        "-o",
        f"{world.path}/trace",
    ]
    for _ in range(2):
        command = [MOUNTD, "reconcile", "--manifest", world.manifest, "--state-dir", world.state]
        assert world.run([*words, *command]).status == 0
        assert "SIGCHLD" not in (world / "trace").read_text()
