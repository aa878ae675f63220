"""What the machine has no more of, as far as no other test runs out of it."""

import os
from pathlib import Path

import pytest
from old_kernel import Kernel
from volumes import NODE, make_plain
from watcher import eventually, watch
from world import MOUNTD, World, mount_id, owner, run


@pytest.mark.fault(2, "ENFILE, which the kernel gives to root never: injected")
def test_files_of_the_whole_machine_are_told_with_their_number(world: World) -> None:
    make_plain(world, "work")
    world.reconcile()
    before = mount_id(world / "work")
    make_plain(world, "work", user="1001:1001")
    inject = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=open_tree:error=ENFILE"]
    place = ["-f", world.manifest, "--state-dir", world.state]
    result = world.run([*inject, MOUNTD, "reconcile", "--json", *place])
    assert (result.status, result.volume("work")["reason"]) == (1, "limit")
    most = Path("/proc/sys/fs/file-max").read_text().strip()
    assert f"fs.file-max, which is {most}" in result.volume("work")["error"]["hint"]
    assert (mount_id(world / "work"), owner(world / "work")) == (before, NODE)


class _NoInotify(Kernel):
    """In a user namespace without inotify: the limit is that namespace's own."""

    def command(self, *words: str) -> list[str]:
        limit = 'echo 0 >/proc/sys/user/max_inotify_instances; exec "$@"'
        apart = ["unshare", "--user", "--map-root-user", "--mount", "--propagation=unchanged"]
        return [*apart, "sh", "-c", limit, "sh", *words]


@pytest.mark.fault(6, "no inotify at all, for a watch")
def test_a_watch_without_inotify_says_so_once_and_sees_edits_all_the_same(world: World) -> None:
    run("mount", "-t", "proc", "proc", "/proc")  # a container's manager may have made it read-only
    table = {"source": world.folder("source")}
    tables = {name: table | {"target": world / name} for name in "abcd"}
    world.volumes(a=tables.pop("a"))
    with watch(world, kernel=_NoInotify("", (), has_beneath=True)) as watcher:
        for name in "bcd":
            world.volumes(**{name: tables[name]})
            eventually(lambda: f"mounted: {name} at" in watcher.log)  # noqa: B023
        watcher.tells("user.max_inotify_instances, which is 0", 1)


@pytest.mark.fault(9, "a limit on memory, which every call may meet")
def test_a_pass_without_memory_loses_no_mount_and_no_record(world: World) -> None:
    names = [f"v{number}" for number in range(100)]
    make_plain(world, *names)
    world.reconcile()
    too_little, enough = 24 << 20, 96 << 20  # with less, Python itself is of no use
    while enough - too_little > 128 << 10:
        limit = (too_little + enough) // 2
        make_plain(world, *names, user=f"{limit}:1000")
        words = ["prlimit", f"--as={limit}", MOUNTD, "reconcile", "-f", world.manifest]
        result = world.run([*words, "--state-dir", world.state])
        assert len(world.mounts()) == len(names)
        if result.status:
            assert "out of memory" in result.err
            too_little = limit
        else:
            enough = limit
    assert enough < 96 << 20
    world.reconcile()
    assert len(world.mounts()) == len(names)
    assert sorted(os.listdir(world.state)) == ["lock", "record.json"]
