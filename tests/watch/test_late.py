"""What comes, goes and changes while `mountd watch` runs, and what is in the way until it goes."""

import os
import time
from contextlib import ExitStack
from typing import Any

import pytest
from volumes import NODE, is_mounted, make_plain, table
from watcher import counted_passes, do, eventually, watch
from world import World, cover, disks, owner, running

ARRIVALS: dict[str, tuple[dict[str, Any], str]] = {
    "a folder, renamed to there": ({"source": "$/new"}, "mv source new"),
    "a folder deep down": ({"source": "$/a/b/c/source"}, "mkdir -p a/b/c; mv source a/b/c"),
    "a file": ({"source": "$/new", "target": "$/file"}, "mv source/hello new"),
    "a folder that a mount brings": ({"source": "$/empty/inner"}, "mount --bind outer empty"),
    "a folder that gets its owner later": (
        {"source": "$/new"},
        "mkdir new; echo >new/hello; sleep 0.2; chown 501:20 new new/hello",
    ),
    "a link that root made": ({"source": "$/link/source"}, "ln -s . link"),
    "what a link leads to": ({"source": "$/dangling"}, "mv source new"),
    "a target's folder": ({"target": "$/new", "create": False}, "mkdir new"),
    "a target's folder deep down": ({"target": "$/a/b/c", "create": False}, "mkdir -p a/b/c"),
    "a folder in place": ({"source": "$/new", "target": "$/new"}, "mv source new"),
    "a subdir": (
        {"type": "tmpfs", "source": "x", "options": ["uid=501", "gid=20"], "subdir": "sub/deep"},
        "mkdir -p sub; cp -a source sub/deep; cp -a sub state/fs/*/",
    ),
}


@pytest.mark.fault(22, "missing, and comes later")
@pytest.mark.parametrize("what", ARRIVALS)
def test_what_a_volume_waits_for_is_told_once_and_seen_when_it_comes(
    world: World, what: str
) -> None:
    keys, arrival = ARRIVALS[what]
    world.folder("outer")
    world.folder("outer/inner")
    world.folder("source")
    do(world, "mkdir empty; ln -s new dangling")
    base = {"source": "$/source", "target": "$/work", "user": "1000:1000"}
    if what == "a subdir":  # on a filesystem that is mounted for another volume too
        base_keys = {key: keys[key] for key in ("type", "source", "options")}
        world.volumes(late=base | keys, other=base | base_keys | {"target": "$/other"})
    else:
        world.volumes(late=base | keys, other=base | {"source": "$/outer", "target": "$/other"})
    with watch(world) as watcher:
        eventually(lambda: "pending: late" in watcher.log)
        assert watcher.status.startswith("1 of 2 mounted; late: ")
        do(world, arrival)
        target = world / str({**base, **keys}["target"])[2:]
        shown = target if what == "a file" else target / "hello"
        eventually(lambda: owner(shown) == NODE, what)
        eventually(lambda: watcher.status == "2 volumes mounted")
        watcher.tells("pending: late", 1)
        watcher.tells("mounted: late", 1)


def test_a_home_comes_with_its_files_and_then_the_volume(world: World) -> None:
    """The account is there long before its home, where `useradd` waits for nscd and sss_cache."""
    world.folder("source")
    do(world, "echo root:x:0:0::/root:/bin/sh >passwd; mount --bind passwd /etc/passwd")
    cover("/home")
    base = {"source": world / "source", "user": "dev:1000"}
    world.volumes(
        late={**base, "target": "/home/dev/deep/work"}, later={**base, "target": "/mnt/dev/work"}
    )
    with watch(world) as watcher:
        eventually(lambda: watcher.log.count("pending: late") == 2)
        do(world, "echo dev:x:1000:1000::/home/dev:/bin/sh >>passwd")
        watcher.tells("pending: late: dev's home isn't there yet", 1)
        eventually(lambda: is_mounted(world / "dev/work"))
        assert not os.path.lexists("/home/dev")
        do(world, "mkdir /home/new; touch /home/new/.profile; chown -R 1000:1000 /home/new")
        do(world, "mv /home/new /home/dev")
        eventually(lambda: owner("/home/dev/deep/work/hello") == NODE)
        assert owner("/home/dev/deep") == NODE
        assert os.path.exists("/home/dev/.profile")
        eventually(lambda: watcher.status == "2 volumes mounted")
    do(world, "umount -R /home /etc/passwd")


@pytest.mark.needs_loop
def test_a_device_that_comes_is_mounted(world: World) -> None:
    with disks(world) as disk:
        device = disk("ext4")
        keys = {"type": "ext4", "source": world / "device", "target": world / "work"}
        world.volumes(late={**keys, "user": "1000:1000"})
        with watch(world) as watcher:
            eventually(lambda: "pending: late" in watcher.log)
            do(world, f"cp -a {device} device")
            eventually(lambda: is_mounted(world / "work"))
            eventually(lambda: watcher.status == "1 volume mounted")
        do(world, "umount work state/fs/*")


def test_a_volume_that_waits_for_another_one_comes_with_it(world: World) -> None:
    world.folder("source/inner")
    (world / "source").rename(world / "away")
    world.write(
        '[volumes.third]\nsource = "$/second"\ntarget = "$/third"\n'
        '[volumes.second]\nsource = "$/first/inner"\ntarget = "$/second"\n'
        '[volumes.first]\nsource = "$/source"\ntarget = "$/first"\nuser = "1000:1000"\n'
    )
    os.chown(world / "away", 501, 20)
    with watch(world) as watcher:
        assert watcher.status.startswith("0 of 3 mounted")
        do(world, "mv away source")
        eventually(lambda: watcher.status == "3 volumes mounted")
        assert is_mounted(world / "third")


def test_a_source_that_was_replaced_by_another_folder_is_followed_after_a_reload(
    world: World,
) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        do(world, "mv source old; mkdir source; echo new >source/hello; chown -R 501:20 source")
        watcher.reload()
        assert (world / "work/hello").read_text() == "new\n"
        assert is_mounted(world / "work")


@pytest.mark.fault(33, "and the resync")
@pytest.mark.parametrize("event", ["reload", "resync"])
def test_what_no_event_tells_is_seen_at_the_next_pass(world: World, event: str) -> None:
    """Owners, modes, and folders renamed above a target; the one wait for the real resync."""
    make_plain(world, "above/work")
    for name in ("owned", "read"):
        world.folder(name)
    tables: dict[str, dict[str, Any]] = {
        "owned": {"source": world / "owned", "target": world / "o"},
        "read": {"source": world / "read", "target": world / "r", "read_only": True},
        "work": {"source": world / "source", "target": world / "above/work"},
    }
    world.volumes(**{name: {**keys, "user": "1000:1000"} for name, keys in tables.items()})
    with watch(world) as watcher:
        assert owner(world / "r") == (501, 20)  # whom everybody may read
        begin = time.monotonic()
        do(world, "chown -R 502:502 owned; chmod 700 read; mv above elsewhere")
        if event == "reload":
            watcher.reload()
        else:
            while not is_late(begin) and owner(world / "o") != NODE:
                time.sleep(0.05)
            assert time.monotonic() - begin > 30
            eventually(lambda: owner(world / "o") == owner(world / "r") == NODE)
            eventually(lambda: is_mounted(world / "above/work"))
        assert owner(world / "o/hello") == owner(world / "r") == NODE
        assert is_mounted(world / "above/work")
        wanted = ["/mnt/above/work", "/mnt/o", "/mnt/r"]
        eventually(lambda: [point for point, *_ in table(world)] == wanted, "nothing elsewhere")
        eventually(lambda: watcher.status == "3 volumes mounted")


def is_late(begin: float) -> bool:
    return time.monotonic() - begin > 300


def test_that_another_keeps_a_mount_busy_now_is_no_news(world: World) -> None:
    make_plain(world, "work", "stays")
    with watch(world) as watcher:
        with ExitStack() as later:
            with running("sh", "-c", "echo; read _", cwd=world / "work"):
                make_plain(world, "stays")
                eventually(lambda: "work: " in watcher.status and "(pid" in watcher.status)
                other = running("sh", "-c", "echo; read _", cwd=world / "work")
                pid = later.enter_context(other).pid
            with counted_passes(world) as passes:
                eventually(lambda: f"(pid {pid})" in watcher.status)
                eventually(lambda: passes() >= 1)
        eventually(lambda: "unmounted: work" in watcher.log)
        watcher.tells("failed: work", 1)


def test_a_departure_that_is_busy_is_tried_ever_more_rarely_and_done_soon_after(
    world: World,
) -> None:
    make_plain(world, "work", "stays")
    with watch(world) as watcher:
        with (
            running("sh", "-c", "echo; read _", cwd=world / "work"),
            counted_passes(world) as passes,
        ):
            begin = time.monotonic()
            make_plain(world, "stays")
            eventually(lambda: "failed: work" in watcher.log)
            eventually(lambda: watcher.status.startswith("1 of 1 mounted; work: "))
            before = passes()
            eventually(lambda: passes() >= before + 2)
            assert time.monotonic() - begin >= 3  # it was tried after one second, and two more
            do(world, "umount stays")
            eventually(lambda: is_mounted(world / "stays"))
            watcher.tells("failed: work", 1)  # later it may fail by a holder that nobody finds
        eventually(lambda: "unmounted: work" in watcher.log)
        eventually(lambda: watcher.status == "1 volume mounted")
        assert [point for point, *_ in table(world)] == ["/mnt/stays"]
