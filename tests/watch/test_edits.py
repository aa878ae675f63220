"""`mountd watch` and edits: however a file is saved, what it says in the end is what is mounted."""

import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGHUP
from time import monotonic

import pytest
from old_kernel import Kernel
from search_path import ETC, RUN, USR, Machine
from silent_server import Server
from volumes import NODE, comes_to_show, shown, volumes
from watcher import (
    PATIENCE,
    Watcher,
    comes_to_say,
    do,
    eventually,
    is_locked,
    lock_held,
    steadily,
    watch,
)
from world import World, mount_id, owner

Save = Callable[[Path, str], None]


@pytest.fixture
def place(world: World) -> World:
    """A world with a source and no manifest yet."""
    world.folder("source")
    return world


def comes_to_be(path: Path, *ids: int) -> None:
    eventually(lambda: owner(path) == ids, f"{path} of {ids}")


@contextmanager
def watched(world: World, *names: str) -> Iterator[Watcher]:
    """A watch on a manifest of these volumes, which are mounted."""
    Path(world.manifest).parent.mkdir(parents=True, exist_ok=True)
    Path(world.manifest).write_text(volumes(world, *names))
    with watch(world) as watcher:
        comes_to_show(world, " ".join(names))
        yield watcher


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def over_the_old_bytes(file: Path, text: str) -> None:
    with file.open("r+") as stream:
        stream.write(text)
        stream.truncate()


def in_small_pieces(file: Path, text: str) -> None:
    with open(file, "wb", buffering=0) as stream:
        stream.writelines(bytes([byte]) for byte in text.encode())


def by_a_memory_map(file: Path, text: str) -> None:
    with file.open("r+b") as stream:
        stream.truncate(len(text))
        with mmap.mmap(stream.fileno(), len(text)) as memory:
            memory[:] = text.encode()


def by_rename(file: Path, text: str) -> None:
    new = file.with_name(".new")
    new.write_text(text)
    new.replace(file)


def by_rename_of_a_backup(file: Path, text: str) -> None:
    backup = file.rename(f"{file}~")
    file.write_text(text)
    backup.unlink()


def beside_a_linked_backup(file: Path, text: str) -> None:
    Path(f"{file}~").unlink(missing_ok=True)
    Path(f"{file}~").hardlink_to(file)
    by_rename(file, text)


def removed_and_made(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


def by_a_new_link(file: Path, text: str) -> None:
    target = file.with_name(f"version-{len(os.listdir(file.parent))}")
    target.write_text(text)
    link = file.with_name(".link")
    link.symlink_to(target.name)
    link.replace(file)


def with_the_time_of_before(file: Path, text: str) -> None:
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_with_the_time_of_before(file: Path, text: str) -> None:
    before = file.stat()
    new = file.with_name(".new")
    new.write_text(text)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file)


WAYS: list[Save] = [
    in_place,
    over_the_old_bytes,
    in_small_pieces,
    by_a_memory_map,
    by_rename,
    by_rename_of_a_backup,
    beside_a_linked_backup,
    removed_and_made,
    by_a_new_link,
    with_the_time_of_before,
    renamed_with_the_time_of_before,
]
ways = pytest.mark.parametrize("save", WAYS, ids=lambda save: save.__name__)


@ways
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
def test_a_save_is_applied_whichever_way_it_is_made(
    place: World, save: Save, *, is_link: bool
) -> None:
    file = Path(place.manifest)
    if is_link:
        real = place / "repository/deep/real.toml"
        real.parent.mkdir(parents=True)
        (place / "middle").symlink_to("repository/deep")
        file.symlink_to("middle/real.toml")
        file = real
    with watched(place, "a") as watcher:
        for names in ("b", "bc", "d", "a"):
            save(file, volumes(place, *names))
            comes_to_show(place, " ".join(names))
            steadily(lambda: watcher.process.poll() is None, 0.2 if len(names) > 1 else 0)
        assert "error" not in watcher.log


@ways
def test_the_last_of_fifty_quick_saves_wins(place: World, save: Save) -> None:
    with watched(place, "a") as watcher:
        for number in range(50):
            save(Path(place.manifest), volumes(place, "a" if number % 2 else "b"))
        save(Path(place.manifest), volumes(place, "last"))
        comes_to_show(place, "last")
        assert "error" not in watcher.log


@pytest.mark.fault(20, "open for writing, under a watch")
def test_a_file_that_is_being_written_is_not_acted_on(place: World) -> None:
    with watched(place, "a", "b") as watcher:
        before = watcher.log
        with open(place.manifest, "w") as file:
            steadily(lambda: shown(place) == "a b")
            for text in ("[volu", volumes(place, "a")[5:], volumes(place, "c")):
                file.write(text)
                file.flush()
                steadily(lambda: shown(place) == "a b")
            assert watcher.log == before
        comes_to_show(place, "a c")


@pytest.mark.fault(20, "and a reload is asked for")
def test_a_reload_waits_for_what_is_being_written(place: World) -> None:
    with watched(place, "a", "b") as watcher:
        count = watcher.hear().count("READY=1")
        with open(place.manifest, "w") as file:
            watcher.process.send_signal(SIGHUP)
            steadily(lambda: shown(place) == "a b" and watcher.hear().count("READY=1") == count)
            file.write(volumes(place, "c"))
        eventually(lambda: watcher.hear().count("READY=1") > count)
        assert shown(place) == "c"


@pytest.mark.fault(20, "saved all the time")
def test_saves_that_never_end_cost_no_volume_its_mount(place: World) -> None:
    with watched(place, "a") as watcher:
        mount = mount_id(place / "to/a")
        end = monotonic() + 2
        number = 0
        while monotonic() < end:
            in_place(Path(place.manifest), volumes(place, "a") + f"# {number}\n")
            if number % 50 == 0:
                watcher.process.send_signal(SIGHUP)
            number += 1
            watcher.hear()
            assert watcher.process.poll() is None, (watcher.process.poll(), watcher.log)
        watcher.reload()
        assert mount_id(place / "to/a") == mount, watcher.log
        assert "error" not in watcher.log


def test_a_save_while_a_pass_runs_is_applied_after_it(place: World) -> None:
    server = Server(place / "fuse")
    try:
        with watched(place, "a") as watcher:
            server.fall_silent()
            hung = volumes(place, "hung").replace("/source", "/fuse")
            in_place(Path(place.manifest), volumes(place, "a") + hung)
            eventually(lambda: is_locked(place))
            by_rename(Path(place.manifest), volumes(place, "b"))
            comes_to_show(place, "b")
            watcher.tells("unmounted: a", 1)
    finally:
        server.die()


def test_a_swapped_link_brings_a_new_version_of_all_files(place: World) -> None:
    def swap(version: str, *names: str) -> None:
        folder = place / f"config/..{version}"
        folder.mkdir(parents=True)
        (folder / "mountd.toml").write_text(volumes(place, names[0]))
        (folder / "more.toml").write_text(volumes(place, names[1]))
        new = place / "config/..data_tmp"
        new.symlink_to(folder.name)
        new.replace(place / "config/..data")

    swap("2026_1", "a", "b")
    (place / "config/mountd.toml").symlink_to("..data/mountd.toml")
    (place / "config/mountd.toml.d").mkdir()
    (place / "config/mountd.toml.d/more.toml").symlink_to("../..data/more.toml")
    place.manifest = str(place / "config/mountd.toml")
    with watch(place) as watcher:
        comes_to_show(place, "a b")
        for number, names in enumerate(("ac", "dc", "ef"), 2):
            steadily(lambda: "error" not in watcher.log, 0.2)
            swap(f"2026_{number}", *names)
            comes_to_show(place, " ".join(sorted(names)))
            shutil.rmtree(place / f"config/..2026_{number - 1}")
        assert "error" not in watcher.log


def test_a_folder_of_drop_ins_may_be_a_swapped_link_itself(place: World) -> None:
    for number, name in enumerate("ab"):
        (place / f"v{number}").mkdir()
        (place / f"v{number}/x.toml").write_text(volumes(place, name))
    folder = Path(f"{place.manifest}.d")
    with watched(place, "z"):
        for number, name in ((0, "a"), (1, "b"), (0, "a")):
            (place / "link").symlink_to(f"v{number}")
            (place / "link").replace(folder)
            comes_to_show(place, f"{name} z")
            steadily(lambda: shown(place) != "z", 0.2)


def test_drop_ins_are_followed_from_the_folder_that_appears_to_the_last_one_removed(
    place: World,
) -> None:
    folder = Path(f"{place.manifest}.d")
    with watched(place, "a") as watcher:
        folder.mkdir()
        (folder / "1.toml").write_text(volumes(place, "b"))
        comes_to_show(place, "a b")
        by_rename(folder / "2.toml", volumes(place, "c"))
        comes_to_show(place, "a b c")
        in_place(folder / "1.toml", '[volumes.a]\nuser = "0:0"\n')
        comes_to_show(place, "c")
        assert owner(place / "to/a/hello") == (0, 0)
        (folder / "1.toml").rename(folder / "1.toml.off")
        comes_to_show(place, "a c")
        folder.rename(place / "away")
        comes_to_show(place, "a")
        (place / "other").mkdir()
        (place / "other/3.toml").write_text(volumes(place, "d"))
        (place / "other").rename(folder)
        comes_to_show(place, "a d")
        shutil.rmtree(folder)
        comes_to_show(place, "a")
        assert "error" not in watcher.log


def test_the_search_path_is_followed_in_all_its_places(place: World) -> None:
    machine = Machine(place)
    machine.manifest = ETC

    def put(file: str, *names: str) -> None:
        machine.put({file: volumes(machine, *names)})

    with watch(machine) as watcher:
        assert watcher.status.startswith(f"waiting for a manifest: {ETC}: ")
        for file, names, wanted in (
            (USR, "a", "a"),
            (RUN, "b", "b"),
            (f"{USR}.d/x.toml", "c", "b c"),
            (ETC, "d", "c d"),
            (f"{RUN}.d/x.toml", "e", "d e"),
            (f"{ETC}.d/x.toml", "", "d"),  # masks both
            (f"{ETC}.d/y.toml", "f", "d f"),
        ):
            put(file, *names)
            comes_to_show(machine, wanted)
        for file, wanted in (
            (ETC, "b f"),
            (f"{ETC}.d/x.toml", "b e f"),
            (RUN, "a e f"),
            (f"{RUN}.d/x.toml", "a c f"),
            (USR, "c f"),
            (f"{ETC}.d/y.toml", "c"),
        ):
            Path(file).unlink()
            comes_to_show(machine, wanted)
        assert "error" not in watcher.log
        Path(f"{USR}.d/x.toml").unlink()
        eventually(lambda: "(the last good manifest is in force)" in watcher.status)
        put("/run/credentials/@system/mountd.toml", "g")  # these don't come while a unit runs
        watcher.reload()
        assert (shown(machine), watcher.status) == ("g", "1 volume mounted")


def test_a_manifest_is_waited_for_with_its_folders_and_kept_when_they_go(place: World) -> None:
    place.manifest = f"{place.path}/some/where/mountd.toml"
    waiting = f"waiting for a manifest: {place.manifest}: there is no {place.path}/some"
    with watch(place) as watcher:
        assert watcher.status == waiting
        watcher.tells("; waiting for it", 1)
        for names in ("a", "b"):
            Path(place.manifest).parent.parent.mkdir()
            Path(place.manifest).parent.mkdir()
            in_place(Path(place.manifest), volumes(place, names))
            comes_to_show(place, names)
            eventually(lambda: watcher.status == "1 volume mounted")
            shutil.rmtree(place / "some")
            eventually(lambda: "(the last good manifest is in force)" in watcher.status)
            watcher.reload()
            watcher.reload()
            assert shown(place) == names
        watcher.tells("the last good manifest stays in force", 2)
        watcher.tells("is right again", 1)


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.mkdir()


def _loop(file: Path) -> None:
    file.symlink_to(file)


def _too_large(file: Path) -> None:
    file.write_text("#" * (1 << 20) + "\n")


def _strangers(file: Path) -> None:
    file.write_text("")
    os.chown(file, 1000, 1000)


def _for_all_to_write(file: Path) -> None:
    file.write_text("")
    file.chmod(0o666)


def _no_text(file: Path) -> None:
    file.write_bytes(b"\xff\0")


def _dangling(file: Path) -> None:
    file.symlink_to("nowhere")


@pytest.mark.fault(18, "under a watch")
@pytest.mark.fault(19, "under a watch")
@pytest.mark.parametrize(
    "make",
    [_fifo, _folder, _loop, _too_large, _strangers, _for_all_to_write, _no_text, _dangling],
)
def test_what_is_no_manifest_changes_nothing_and_is_told_once(
    place: World, make: Callable[[Path], None]
) -> None:
    file = Path(place.manifest)
    with watched(place, "a") as watcher:
        file.unlink()
        make(file)
        eventually(lambda: "(the last good manifest is in force)" in watcher.status)
        watcher.reload()
        told = watcher.log.count("error: ") + watcher.log.count("stays in force")
        watcher.reload()
        assert told == watcher.log.count("error: ") + watcher.log.count("stays in force") <= 2
        assert shown(place) == "a"
        file.rename(place / "away")
        file.write_text(volumes(place, "b"))
        comes_to_show(place, "b")
        eventually(lambda: watcher.status == "1 volume mounted")


def _let_all_write(path: Path) -> None:
    path.chmod(0o777)


def _let_root_alone_write(path: Path) -> None:
    path.chmod(0o755)


def _give_away(path: Path) -> None:
    os.chown(path, 1000, 1000)


def _take_back(path: Path) -> None:
    os.chown(path, 0, 0)


@pytest.mark.fault(21, "under a watch")
@pytest.mark.parametrize("name", ["mountd.toml", ""], ids=["file", "folder"])
@pytest.mark.parametrize(
    ("spoil", "mend"),
    [(_let_all_write, _let_root_alone_write), (_give_away, _take_back)],
    ids=["mode", "owner"],
)
def test_a_file_that_others_could_write_counts_once_they_cant(
    place: World, name: str, spoil: Callable[[Path], None], mend: Callable[[Path], None]
) -> None:
    place.manifest = f"{place.path}/config/mountd.toml"
    with watched(place, "a") as watcher:
        spoil(place / "config" / name)
        by_rename(Path(place.manifest), volumes(place, "b"))
        if name:
            spoil(Path(place.manifest))
            watcher.reload()
        eventually(lambda: "(the last good manifest is in force)" in watcher.status)
        assert shown(place) == "a"
        mend(place / "config" / name)
        if not name:  # of a folder above nothing tells
            watcher.reload()
        comes_to_show(place, "b")
        eventually(lambda: watcher.status == "1 volume mounted")


def test_a_bad_edit_is_told_once_until_it_is_another_or_mended(place: World) -> None:
    file = Path(place.manifest)
    with watched(place, "a") as watcher:
        for text, line, message in (
            ("garbage", "1:1", "not TOML"),
            ("# more\ngarbage", "2:1", "not TOML"),
            (volumes(place, "a").replace("user", "usr"), "4:1", "unknown key `volumes.a.usr`"),
        ):
            in_place(file, text)
            said = f"{file}:{line}: error: {message}"
            comes_to_say(watcher, f"1 volume mounted; {said}")
            assert watcher.status.endswith(" (the last good manifest is in force)")
            watcher.reload()
            by_rename(file, text)  # again the same
            watcher.reload()
            watcher.tells(said, 1)
            assert shown(place) == "a"
        assert "is right again" not in watcher.log
        in_place(file, volumes(place, "a"))
        eventually(lambda: watcher.status == "1 volume mounted")
        watcher.tells(f"the manifest {file} is right again", 1)
        in_place(file, "garbage")
        eventually(lambda: watcher.log.count("not TOML") == 3, "told anew")


def test_all_that_is_wrong_is_told_with_its_place(place: World) -> None:
    drop_in = Path(f"{place.manifest}.d/x.toml")
    with watched(place, "a") as watcher:
        drop_in.parent.mkdir()
        drop_in.write_text('[volumes.a]\nusr = 1\nread_only = "x"\n')
        eventually(lambda: f"{drop_in}:3:13: error: " in watcher.log)
        eventually(lambda: f"{drop_in}:2:1: error: unknown key `volumes.a.usr`" in watcher.log)
        eventually(lambda: "      | ^^^ did you mean `user`?" in watcher.log)
        drop_in.write_text('[volumes.a]\nuser = "0:0"\n')
        comes_to_be(place / "to/a/hello", 0, 0)


@pytest.mark.parametrize("has_file", [True, False], ids=["wrong", "missing"])
def test_the_last_good_manifest_is_kept_up(place: World, *, has_file: bool) -> None:
    with watched(place, "a", "b") as watcher:
        in_place(Path(place.manifest), "garbage")
        if not has_file:
            Path(place.manifest).unlink()
        eventually(lambda: "(the last good manifest is in force)" in watcher.status)
        do(place, "umount to/a")
        comes_to_show(place, "a b")
        watcher.reload()
        assert shown(place) == "a b"
        do(place, "umount to/b")
        comes_to_show(place, "a b")
        watcher.tells("drift: ", 2)


def test_a_wrong_manifest_after_waiting_is_told_and_mended(place: World) -> None:
    file = Path(place.manifest)
    with watch(place) as watcher:
        assert watcher.status == f"waiting for a manifest: {file}: there is no such file"
        in_place(file, "garbage")
        eventually(lambda: watcher.status.startswith(f"waiting for a manifest: {file}: not TOML"))
        watcher.tells("error: not TOML", 1)
        in_place(file, volumes(place, "a"))
        comes_to_show(place, "a")
        eventually(lambda: watcher.status == "1 volume mounted")


@pytest.mark.parametrize("make", [_fifo, _folder, _no_text, _strangers, _loop])
def test_a_wrong_manifest_at_the_start_ends_it_with_78(
    place: World, make: Callable[[Path], None]
) -> None:
    make(Path(place.manifest))
    with watch(place, is_ready=False) as watcher:
        assert watcher.process.wait(PATIENCE) == 78
        watcher.tells("error: ", 1)
        assert "READY=1" not in watcher.hear()
    assert not place.mounts()


def test_a_wrong_drop_in_at_the_start_ends_it_also_where_the_manifest_is_missing(
    place: World,
) -> None:
    Path(f"{place.manifest}.d").mkdir()
    Path(f"{place.manifest}.d/x.toml").write_text("garbage")
    with watch(place, is_ready=False) as watcher:
        assert watcher.process.wait(PATIENCE) == 78


def test_a_watch_that_was_killed_may_keep_its_lock_for_a_moment(place: World) -> None:
    place.write(volumes(place, "a"))
    Path(place.state).mkdir()
    with open(f"{place.state}/watch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with watch(place, is_ready=False) as watcher:
            time.sleep(0.3)
            assert watcher.process.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            eventually(lambda: "READY=1" in watcher.hear())
            assert shown(place) == "a"
            assert watcher.stop() == 0


def test_beside_a_watch_there_is_no_other_and_no_unmounting_but_passes_are_made(
    place: World,
) -> None:
    with watched(place, "a") as watcher:
        pid = f"(pid {watcher.process.pid})"
        for words in (["watch"], ["unmount", "a"], ["unmount", "--all"]):
            refused = place.mountd(*words)
            assert refused.status == 75
            assert f"`mountd watch` is running {pid}" in refused.err
        assert not place.reconcile().document["changed"]
        assert place.mountd("status").status == 0
        assert shown(place) == "a"
        watcher.stop()
    with watch(place):  # which the first one leaves to the next
        assert shown(place) == "a"
    assert place.mountd("unmount", "--all").status == 0
    assert not place.mounts()


def test_edits_while_another_pass_runs_are_applied_after_it(place: World) -> None:
    with watched(place, "a") as watcher:
        with lock_held(place):
            for name in "bcd":
                by_rename(Path(place.manifest), volumes(place, name))
                steadily(lambda: shown(place) == "a", 0.2)
        comes_to_show(place, "d")
        assert "error" not in watcher.log
        assert "mounted: c" not in watcher.log


def test_a_pass_that_runs_too_long_is_told_until_it_is_over(place: World) -> None:
    in_place(Path(place.manifest), volumes(place, "a"))
    with watch(place, "--wait", "0.1") as watcher:
        with lock_held(place):
            in_place(Path(place.manifest), volumes(place, "b"))
            eventually(lambda: f"another pass is running (pid {os.getpid()})" in watcher.log)
            eventually(lambda: "another pass is running" in watcher.status, "in the status line")
            steadily(lambda: watcher.log.count("another pass is running") == 1)
        comes_to_show(place, "b")
        eventually(lambda: watcher.status == "1 volume mounted")


@pytest.mark.parametrize("is_reload", [False, True], ids=["edit", "reload"])
def test_a_record_that_cant_be_written_is_told_and_tried_again(
    place: World, *, is_reload: bool
) -> None:
    lock = Path(place.state, "lock")
    with watched(place, "a") as watcher:
        lock.unlink()
        lock.mkdir()
        in_place(Path(place.manifest), volumes(place, "b"))
        if is_reload:
            watcher.reload()
        eventually(lambda: "can't be made" in watcher.log)
        assert shown(place) == "a"
        lock.rmdir()
        watcher.reload()
        assert (shown(place), watcher.status) == ("b", "1 volume mounted")


class _NoWatches(Kernel):
    """One that gives inotify to nobody in a user namespace of the command's own."""

    def command(self, *words: str) -> list[str]:
        script = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"'
        return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words]


def test_edits_are_seen_where_the_kernel_gives_no_watches_on_files(place: World) -> None:
    os.chown(place / "source", 0, 0)
    text = volumes(place, "a", user="0:0")
    in_place(Path(place.manifest), text)
    with watch(place, kernel=_NoWatches("", (), has_beneath=True)) as watcher:
        inside = Path(f"/proc/{watcher.process.pid}/root{place.path}/to")

        for name in ("a", "b", "a"):
            in_place(Path(place.manifest), text.replace("a]", f"{name}]").replace("/a", f"/{name}"))
            eventually(partial(_holds, inside, name))
        watcher.reload()
        watcher.tells("\nedits are seen a second late:", 1)
        assert "1 volume mounted; edits are seen a second late:" in watcher.status


def _holds(folder: Path, name: str) -> bool:
    return [each.parent.name for each in folder.glob("*/hello")] == [name]


def _says(path: Path, text: str) -> bool:
    return path.read_text() == text


def account(uid: int = 1000, gid: int = 1000) -> str:
    return f"root:x:0:0::/:/bin/sh\nnode:x:{uid}:{gid}::/:/bin/sh\n"


@pytest.mark.parametrize("save", [in_place, by_rename, by_rename_of_a_backup, over_the_old_bytes])
@pytest.mark.parametrize("root", ["", "/mnt/rootfs"], ids=["own", "other"])
def test_a_user_is_waited_for_and_followed(place: World, save: Save, root: str) -> None:
    machine = Machine(place)
    passwd = Path(f"{root}/etc/passwd")
    machine.rootfs("")
    machine.put({str(passwd): "root:x:0:0::/:/bin/sh\n"})
    text = volumes(place, "a", user="node")
    in_place(Path(place.manifest), text + (f'accounts = "{root}"\n' if root else ""))
    with watch(place) as watcher:
        assert watcher.status.startswith("0 of 1 mounted; a: ")
        for uid, gid in ((1000, 1000), (1001, 1001), (1000, 7)):
            save(passwd, account(uid, gid))
            comes_to_be(place / "to/a/hello", uid, gid)
        watcher.tells("pending: a: ", 1)
        eventually(lambda: watcher.status == "1 volume mounted")


@pytest.mark.parametrize("root", ["", "/mnt/rootfs"], ids=["own", "other"])
def test_a_group_and_the_file_it_is_in_are_waited_for(place: World, root: str) -> None:
    machine = Machine(place)
    machine.rootfs("")
    machine.put({f"{root}/etc/passwd": account()})
    group = Path(f"{root}/etc/group")
    group.unlink()
    text = volumes(place, "a", user="node:staff")
    in_place(Path(place.manifest), text + (f'accounts = "{root}"\n' if root else ""))
    with watch(place) as watcher:
        assert watcher.status.startswith("0 of 1 mounted; a: ")
        group.write_text("staff:x:50:\n")
        comes_to_be(place / "to/a/hello", 1000, 50)


def test_a_file_that_another_replaces_is_followed(place: World) -> None:
    source = place / "file"
    source.write_text("old\n")
    os.chown(source, 501, 20)
    in_place(Path(place.manifest), volumes(place, "a").replace("/source", "/file"))
    with watch(place) as watcher:
        for text in ("new\n", "more\n"):
            new = place / ".new"
            new.write_text(text)
            os.chown(new, 501, 20)
            new.replace(source)
            eventually(partial(_says, place / "to/a", text))
            assert owner(place / "to/a") == NODE
        eventually(lambda: watcher.log.count("replaced: a") == 2)


def test_what_a_user_makes_after_an_edit_is_the_new_owners(place: World) -> None:
    with watched(place, "a"):
        in_place(Path(place.manifest), volumes(place, "a", user="1234:1234"))
        comes_to_be(place / "to/a", 1234, 1234)
        made = place.as_user(1234, "touch", str(place / "to/a/made"))
        assert made.status == 0, made.err
    assert owner(place / "source/made") == (501, 20)
