"""What mountd costs, in counts that no busy machine changes: whatever rises fails by its name.

The counts are in golden/weight.json, which `--update-golden` writes anew.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden import GOLDEN
from volumes import make_plain
from watcher import Watcher, eventually, watch
from world import MOUNTD, World

_FILE = GOLDEN / "weight.json"
_COMMANDS = {
    "new": "reconcile",
    "kept": "reconcile",
    "dry run": "reconcile --dry-run",
    "status": "status",
    "status, as JSON": "status --json",
    "check": "check",
    "explain": "explain v0",
    "unmount": "unmount --all",
}
_OF_OTHER_VERSIONS = {"_colorize", "_string", "string"}
"""Modules that the lowest Python or tomli needs, and those here don't."""
_OF_THE_HEAP = {"brk", "madvise", "mmap", "mprotect", "mremap", "munmap", "futex"}
_NAMES = {"fstat": "newfstatat", "stat": "newfstatat", "lstat": "newfstatat"} | {
    f"syscall_{number:#x}": name  # which an older strace doesn't know
    for number, name in ((457, "statmount"), (458, "listmount"), (467, "open_tree_attr"))
}
_CHANGES = ["new", "kept", "one changed", "replaced", "unmount"]


def _expected(config: pytest.Config, name: str, found: object) -> object:
    """What the golden file says, or what was found once it says that."""
    told = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    if config.getoption("update_golden"):
        told[name] = found
        _FILE.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    return told[name]


def _modules(world: World, *words: str) -> list[str]:
    """What a program of Python's loads, in its order."""
    return _named(world.run([sys.executable, "-X", "importtime", *words]).err)


def _named(said: str) -> list[str]:
    return re.findall(r"^import time:[ \d]+\|[ \d]+\| *(\S+)$", said, re.MULTILINE)


def _files(world: World) -> list[str]:
    return ["--manifest", world.manifest, "--state-dir", world.state]


def _as_golden(names: set[str]) -> dict[str, list[str]]:
    others = {each.partition(".")[0] for each in names if not each.endswith("__mypyc")}
    return {
        "ours": sorted(each for each in names if each.startswith("mountd.")),
        "others": sorted(others - {"mountd"}),
    }


def test_a_command_loads_what_it_uses_and_no_more(
    world: World, pytestconfig: pytest.Config
) -> None:
    make_plain(world, *(f"v{number}" for number in range(3)))
    bare = set(_modules(world, "-c", "pass"))
    for name, words in _COMMANDS.items():
        _see(pytestconfig, name, {*_modules(world, MOUNTD, *words.split(), *_files(world))} - bare)
    with watch(world, env={"PYTHONPROFILEIMPORTTIME": "1"}) as watcher:
        assert watcher.stop() == 0
        _see(pytestconfig, "watch", {*_named(watcher.log)} - bare)


def _see(config: pytest.Config, name: str, loaded: set[str]) -> None:
    found = _as_golden(loaded)
    known = _expected(config, f"modules: {name}", found)
    assert isinstance(known, dict)
    more = {*found["ours"], *found["others"]} - {*known["ours"], *known["others"]}
    assert more - _OF_OTHER_VERSIONS == set(), f"{name} loads more"
    assert found["ours"] == known["ours"], f"{name} loads less: well done; --update-golden"


def _calls(world: World, words: str) -> dict[str, int]:
    """How often each call is made, by whatever the command starts too."""
    trace = world / "trace"  # not -c, which leaves out the newest calls
    strace = ["strace", "-f", "-s", "0", "-e", "signal=none", "-o", str(trace)]
    result = world.run([*strace, MOUNTD, *words.split(), *_files(world)])
    assert result.status == 0, result.err
    found: dict[str, int] = {}
    for told in re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE):
        name = _NAMES.get(told, told)
        if name not in _OF_THE_HEAP:
            found[name] = found.get(name, 0) + 1
    return found


def _changed(world: World, count: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Each kind of pass over so many volumes, with its calls."""
    names = [f"{count}/v{number}" for number in range(count)]
    for name in names:
        (world / name).mkdir(parents=True)
    make_plain(world, *names)
    for change in _CHANGES:
        if change == "one changed":
            text = Path(world.manifest).read_text()
            world.write(text.replace('"1000:1000"', '"1001:1001"', 1))
        elif change == "replaced":
            make_plain(world, *names, user="1002:1002")
        yield change, _calls(world, "unmount --all" if change == "unmount" else "reconcile")


def test_the_calls_that_each_volume_costs(world: World, pytestconfig: pytest.Config) -> None:
    """To the nearest: openat2(2) is tried again, a time or two, where somebody mounts anywhere."""
    make_plain(world, "first")
    for words in ("reconcile", "unmount --all"):  # the state directory and a record are there
        world.mountd(*words.split())
    few, many = dict(_changed(world, 10)), dict(_changed(world, 20))
    for change in _CHANGES:
        more = {it: round((n - few[change].get(it, 0)) / 10) for it, n in many[change].items()}
        each = {name: count for name, count in sorted(more.items()) if count}
        assert each == _expected(pytestconfig, f"calls of a volume: {change}", each), change


def _process(watcher: Watcher) -> Path:
    return Path(f"/proc/{watcher.process.pid}")


def _wakeups(watcher: Watcher) -> int:
    """How often its threads have slept, and been woken."""
    statuses = [each.read_text() for each in _process(watcher).glob("task/*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


def test_an_idle_watch_sleeps(world: World) -> None:
    make_plain(world, *(f"v{number}" for number in range(10)))
    with watch(world) as watcher:

        def sleeps() -> bool:
            before, begin = _wakeups(watcher), time.monotonic()
            time.sleep(6)
            return (_wakeups(watcher) - before) / (time.monotonic() - begin) < 6

        eventually(sleeps, "fewer than 6 wake-ups a second, once what it does at its start is over")


def _held(watcher: Watcher) -> dict[str, int]:
    process = _process(watcher)
    children = [each.read_text().split() for each in process.glob("task/*/children")]
    return {
        "descriptors": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
        "children": sum(map(len, children)),
    }


def test_passes_leave_no_descriptor_thread_or_child_behind(world: World) -> None:
    make_plain(world, *(f"v{number}" for number in range(10)))
    with watch(world) as watcher:
        for _ in range(3):
            watcher.reload()
        before = _held(watcher)
        for number in range(25):
            make_plain(world, *(f"v{number}" for number in range(10)), user=1000 + number % 2)
            watcher.reload()
        eventually(lambda: all(_held(watcher)[it] <= count for it, count in before.items()))
