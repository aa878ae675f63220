"""A server that doesn't answer while `mountd watch` runs: it costs its own volumes alone."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from volumes import NODE, is_mounted, table
from watcher import Watcher, do, eventually, watch
from world import World, owner, record_of, run

from mountd.kernel.patience import PATIENCE

MANY = [f"hung{number}" for number in range(20)]
LOOKING = 1
"""The child that looks whether there are other files at the sources, which lie in one folder."""


class Server:
    """A FUSE server of a folder of 501's, which caches nothing, and can be stopped."""

    def __init__(self, process: subprocess.Popen[bytes], point: Path) -> None:
        self._process = process
        self.point = point

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def die(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def serving(world: World, name: str = "fuse") -> Iterator[Server]:
    real, point = world / f"{name}-real", world / name
    if not real.exists():
        world.folder(real.name)
        for each in MANY:
            world.folder(f"{real.name}/{each}")
    point.mkdir(exist_ok=True)
    command = ["bindfs", "-f", "-o", "entry_timeout=0,attr_timeout=0", str(real), str(point)]
    with subprocess.Popen(command) as process:
        try:
            eventually((point / "hello").exists)
            yield Server(process, point)
        finally:
            process.kill()
            process.wait()
            run("umount", "-l", str(point))


def write(world: World, *hung: str, good: int = 1) -> None:
    """A manifest of volumes on the server, and of others."""
    tables = {each: {"source": f"$/fuse/{each}", "target": f"$/{each}"} for each in hung}
    for number in range(good):
        name = f"good{number}"
        if not (world / "sources" / name).exists():
            world.folder(f"sources/{name}")
        tables[name] = {"source": f"$/sources/{name}", "target": f"$/{name}", "user": "1000:1000"}
    world.volumes(**tables)


def threads(watcher: Watcher) -> int:
    return len(os.listdir(f"/proc/{watcher.process.pid}/task"))


def test_a_folder_that_a_server_has_anew_is_followed(world: World) -> None:
    with serving(world):
        write(world, "hung0", "hung1")
        with watch(world) as watcher:
            eventually(lambda: watcher.status.startswith("3 volumes mounted"))
            do(world, "rm -r fuse-real/hung0; mkdir fuse-real/hung0; touch fuse-real/hung0/new")
            eventually((world / "hung0/new").exists)
            do(world, "mv fuse-real/hung1 away; cp -r away fuse-real/hung1; touch away/old")
            do(world, "touch fuse-real/hung1/new")
            eventually((world / "hung1/new").exists)


@pytest.mark.fault(28, "stopped under a watch, and continued")
def test_a_server_that_stops_costs_its_volumes_alone(world: World) -> None:
    with serving(world) as server:
        write(world, *MANY, good=2)
        with watch(world, env={"WATCHDOG_USEC": "400000"}) as watcher:
            before = table(world)
            server.stop()
            watcher.reload()
            assert watcher.status.startswith("2 of 22 mounted; hung0: no answer")
            watcher.tells("no answer within", 20)
            eventually(lambda: len(children(watcher)) == len(MANY) + LOOKING)
            begin = time.monotonic()
            write(world, *MANY, good=3)
            eventually(lambda: is_mounted(world / "good2"))
            do(world, "umount good0")
            eventually(lambda: is_mounted(world / "good0"))
            for _ in range(20):
                watcher.reload()
            assert time.monotonic() - begin < 20 * PATIENCE, "each pass waited"
            eventually(lambda: len(children(watcher)) == len(MANY) + LOOKING)
            assert world.mountd("status", "--json").volume("hung3")["reason"] == "not-answering"
            pings = watcher.hear().count("WATCHDOG=1")
            eventually(lambda: watcher.hear().count("WATCHDOG=1") > pings + 3)
            watcher.tells("no answer within", 20)
            server.go_on()
            eventually(lambda: watcher.status == "23 volumes mounted")
            assert len(table(world)) == len(before) + 1
            assert "not-answering" not in watcher.log
            eventually(lambda: len(children(watcher)) <= LOOKING)
            assert owner(world / "hung3/hello") == (501, 20)


@pytest.mark.parametrize("where", ["a source", "a folder above a target"])
def test_one_that_hangs_at_the_start_is_waited_for_by_its_volume_alone(
    world: World, where: str
) -> None:
    with serving(world) as server:
        server.stop()
        write(world, *MANY[:1])
        if where == "a folder above a target":
            text = Path(world.manifest).read_text()
            text = text.replace("/fuse/hung0", "/sources/good0").replace(
                "/mnt/hung0", "/mnt/fuse/t"
            )
            Path(world.manifest).write_text(text)
        target = world / ("hung0" if where == "a source" else "fuse/t")
        with watch(world) as watcher:
            assert watcher.status.startswith("1 of 2 mounted; hung0: no answer")
            assert is_mounted(world / "good0")
            server.go_on()
            eventually(lambda: watcher.status == "2 volumes mounted")
            assert (target / "hello").exists()
            assert watcher.stop() == 0
        if where != "a source":
            run("umount", str(target))


@pytest.mark.fault(29, "killed under a watch")
def test_a_server_that_dies_costs_its_volume_alone_until_there_is_another(world: World) -> None:
    with serving(world) as server:
        write(world, "hung0")
        with watch(world) as watcher:
            server.die()
            watcher.reload()
            assert watcher.status.startswith("1 of 2 mounted; hung0: ")
            watcher.tells("failed: hung0", 1)
            do(world, "umount good0")
            eventually(lambda: is_mounted(world / "good0"))
            run("umount", "-l", str(server.point))
            with serving(world):
                eventually(lambda: watcher.status == "2 volumes mounted")
                assert (world / "hung0/hello").exists()
                assert watcher.stop() == 0
            run("mount", "-t", "tmpfs", "tmpfs", str(server.point))  # for the outer one's end


def children(watcher: Watcher) -> list[str]:
    """The processes that it has."""
    tasks = Path(f"/proc/{watcher.process.pid}/task").iterdir()
    return [pid for each in tasks for pid in (each / "children").read_text().split()]


def waits_for_a_server(watcher: Watcher) -> bool:
    """Whether one of its children does: none of its own threads ever may."""
    tasks = Path(f"/proc/{watcher.process.pid}/task").iterdir()
    assert not any("request_wait_answer" in (each / "wchan").read_text() for each in tasks)
    waits = (Path(f"/proc/{each}/wchan").read_text() for each in children(watcher))
    return any("request_wait_answer" in each for each in waits)


def test_a_file_on_a_server_that_stops_hides_no_arrival_elsewhere(world: World) -> None:
    with serving(world) as server:
        write(world, good=2)
        (world / "sources/good1").rename(world / "away")
        text = Path(world.manifest).read_text()
        file = '\n[volumes.file]\nsource = "$/fuse/hung0/hello"\ntarget = "$/file"\n'
        world.write(text + file)
        with watch(world) as watcher:
            assert watcher.status.startswith("2 of 3 mounted; good1: ")
            server.stop()
            eventually(lambda: waits_for_a_server(watcher))
            do(world, "mv away sources/good1")
            eventually(lambda: is_mounted(world / "good1"))
            assert watcher.stop() == 0


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "just looked at"])
def test_sigterm_ends_it_at_once_beside_what_hangs(world: World, *, is_known: bool) -> None:
    with serving(world) as server:
        write(world, *MANY)
        server.stop()
        with watch(world, is_ready=is_known) as watcher:
            eventually(lambda: is_known or children(watcher))
            told = watcher.log
            assert watcher.stop() == 0
            assert watcher.log == told, "no answer was waited for"
            assert "STOPPING=1" in watcher.hear()
    assert [point for point, *_ in table(world)] == (["/mnt/good0"] if is_known else [])


def test_sigterm_ends_it_in_the_middle_of_a_long_pass_and_all_is_on_record(world: World) -> None:
    write(world, good=2000)
    while True:
        with watch(world, is_ready=False) as watcher:
            eventually(lambda: owner(world / "good0/hello") == NODE)
            assert watcher.stop() == 0
        done = {point for point, *_ in table(world)}
        if len(done) < 2000:
            break
        world.mountd("unmount", "--all")  # we were slower than all of the pass
    assert done
    assert done <= {each["target"] for each in record_of(world)}
    world.reconcile()
    assert len(table(world)) == len(record_of(world)) == 2000


def test_passes_by_the_hundred_leave_nothing_behind(world: World) -> None:
    """What one pass left behind for a volume, 6,000 would each time: more than a mebibyte."""
    write(world, good=30)
    with watch(world) as watcher:
        for _ in range(100):
            watcher.reload()
        count = kept(watcher)
        for _ in range(10):  # what an allocator keeps comes to an end, what is left behind doesn't
            resident = resident_kib(watcher)
            for _ in range(200):
                watcher.reload()
            if resident_kib(watcher) - resident < 500:
                break
        else:
            pytest.fail("each two hundred passes took more memory")
        eventually(lambda: kept(watcher) <= count)
        assert watcher.stop() == 0


def resident_kib(watcher: Watcher) -> int:
    lines = Path(f"/proc/{watcher.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def kept(watcher: Watcher) -> int:
    """Descriptors and threads."""
    return threads(watcher) + len(os.listdir(f"/proc/{watcher.process.pid}/fd"))
