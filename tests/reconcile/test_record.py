"""The record and the lock: what a pass knows, and what it leaves alone once they are gone."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from world import MOUNTD, Result, World, mount_id, owner, record_of, run

_MOUNT_CALLS = "open_tree,mount_setattr,move_mount,umount2,mount,fsmount"


@pytest.fixture
def mounted(world: World) -> World:
    """A world in which volume `work` is mounted, and shows 501:20 as 1000:1000."""
    world.folder("source")
    world.volumes(work=_work(world))
    world.reconcile()
    return world


def _work(world: World, name: str = "work", user: str = "1000:1000") -> dict[str, object]:
    return {"source": world / "source", "target": world / name, "user": user}


def _file(world: World) -> Path:
    return Path(world.state, "record.json")


def _count_at(world: World, name: str) -> int:
    return sum(mount.point == str(world / name) for mount in world.mounts())


def _strace(world: World, *options: str) -> tuple[Result, str]:
    """One pass under strace, and the calls that it made."""
    trace = world / "trace"
    words = ["strace", "-f", "-qq", "-o", str(trace), *options, MOUNTD, "reconcile", "--json"]
    done = world.run([*words, "--manifest", world.manifest, "--state-dir", world.state])
    lines = trace.read_text().splitlines()
    return done, "\n".join(line for line in lines if "syscall_0x" not in line)  # those look only


# the id, and when it is known -----------------------------------------------------------------


def test_an_id_is_in_the_record_before_its_mount_is_attached(world: World) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    done, _ = _strace(world, "-e", "trace=move_mount", "-e", "inject=move_mount:signal=KILL:when=1")
    assert done.status == -signal.SIGKILL
    assert _count_at(world, "work") == 0
    assert [each["target"] for each in record_of(world)] == [str(world / "work")]


def test_the_record_holds_the_ids_of_what_is_mounted_and_forgets_what_left(mounted: World) -> None:
    work = mounted / "work"
    (entry,) = record_of(mounted)
    assert (entry["id"], entry["target"], entry["volume"]) == (mount_id(work), str(work), "work")
    assert entry["manifest"] == mounted.manifest
    mounted.write("version = 1")
    assert mounted.reconcile().volume("work")["action"] == "unmount"
    assert record_of(mounted) == []


# lost, damaged, void --------------------------------------------------------------------------


def _write(text: str | bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _become_a_folder(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def _become_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _become_a_link(file: Path) -> None:
    file.rename(f"{file}.elsewhere")
    file.symlink_to(f"{file}.elsewhere")


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "empty": _write("version = 1"),
    "garbage": _write(b"\xff\x00 garbage"),
    "nested without end": _write("[" * 200_000),
    "a list": _write("[]"),
    "of another format": _write('{"version": 2}'),
    "without mounts": lambda file: _edit(file, mounts=None),
    "with a mount that lacks a field": lambda file: _edit(file, mounts=[{"id": 1}]),
    "with an idmap that is none": lambda file: _edit_mount(file, idmap=7),
    "with an owner that is none": lambda file: _edit_mount(file, owner=[1]),
    "a folder": _become_a_folder,
    "a fifo": _become_a_fifo,
    "a link": _become_a_link,
    "another user's": lambda file: os.chown(file, 1000, 1000),
    "writable by everyone": lambda file: file.chmod(0o666),
}


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _edit_mount(file: Path, **changes: object) -> None:
    (mount,) = json.loads(file.read_text())["mounts"]
    _edit(file, mounts=[{**mount, **changes}])


def test_without_its_record_a_mount_is_adopted_untouched_and_recorded_again(mounted: World) -> None:
    before, mount = record_of(mounted), mount_id(mounted / "work")
    _file(mounted).unlink()
    done, calls = _strace(mounted, "-e", f"trace={_MOUNT_CALLS}")
    assert (done.status, calls) == (0, "")
    assert done.volume("work")["action"] == "keep"
    assert mount_id(mounted / "work") == mount
    assert record_of(mounted) == before


@pytest.mark.fault(15, "each kind of damage, owner and mode")
@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_record_is_as_lost_and_kept_aside(mounted: World, damage: str) -> None:
    before, mount = record_of(mounted), mount_id(mounted / "work")
    _DAMAGES[damage](_file(mounted))
    damaged = _file(mounted).lstat()
    document = mounted.reconcile().document
    assert [each["action"] for each in document["volumes"]] == ["keep"]
    assert (mount_id(mounted / "work"), _count_at(mounted, "work")) == (mount, 1)
    assert record_of(mounted) == before
    aside = Path(f"{_file(mounted)}.damaged").lstat()
    assert (aside.st_ino, aside.st_mode) == (damaged.st_ino, damaged.st_mode)


@pytest.mark.fault(15, "damaged twice")
@pytest.mark.parametrize("damage", ["garbage", "a folder"])
@pytest.mark.parametrize("earlier", ["garbage", "a folder"])
def test_a_record_damaged_once_more_is_as_lost(mounted: World, earlier: str, damage: str) -> None:
    for each in (earlier, damage):
        _DAMAGES[each](_file(mounted))
        assert mounted.reconcile().volume("work")["action"] == "keep"
    mounted.volumes(work=_work(mounted), more=_work(mounted, "more"))
    assert mounted.reconcile().volume("more")["state"] == "mounted"
    assert len(record_of(mounted)) == 2


def _go_elsewhere(field: str) -> Callable[[Path], None]:
    return lambda file: _edit(file, **{field: "of another"})


_LOSSES = {
    "deleted": Path.unlink,
    "garbage": _DAMAGES["garbage"],
    "of another boot": _go_elsewhere("boot"),
    "of another namespace": _go_elsewhere("namespace"),
}


@pytest.mark.fault(14, "what would leave")
@pytest.mark.parametrize("loss", _LOSSES)
def test_a_record_that_is_lost_or_void_unmounts_nothing(mounted: World, loss: str) -> None:
    mount = mount_id(mounted / "work")
    _LOSSES[loss](_file(mounted))
    mounted.write("version = 1")
    document = mounted.reconcile().document
    assert (document["volumes"], document["changed"]) == ([], False)
    assert mounted.mountd("unmount", "--all").status == 0
    assert mount_id(mounted / "work") == mount


@pytest.mark.fault(14, "what differs")
@pytest.mark.parametrize("loss", _LOSSES)
def test_without_a_record_a_mount_that_differs_is_a_conflict(mounted: World, loss: str) -> None:
    mount = mount_id(mounted / "work")
    _LOSSES[loss](_file(mounted))
    mounted.volumes(work=_work(mounted, user="1001:1001"))
    volume = mounted.reconcile(status=1).volume("work")
    assert (volume["state"], volume["reason"]) == ("conflict", "foreign-mount")
    assert str(mounted / "work") in volume["error"]["message"]
    assert (mount_id(mounted / "work"), owner(mounted / "work")) == (mount, (1000, 1000))


@pytest.mark.fault(14, "what is as desired")
@pytest.mark.parametrize("loss", ["of another boot", "of another namespace"])
def test_a_void_record_is_written_anew_from_what_is_adopted(mounted: World, loss: str) -> None:
    before = json.loads(_file(mounted).read_text())
    _LOSSES[loss](_file(mounted))
    assert mounted.reconcile().volume("work")["action"] == "keep"
    after = json.loads(_file(mounted).read_text())
    assert {**after, "unsettled": before["unsettled"]} == before


def test_in_another_mount_namespace_the_copies_are_adopted_and_not_replaced(mounted: World) -> None:
    words = [MOUNTD, "reconcile", "--json", "--manifest", mounted.manifest]
    done = mounted.run(["unshare", "-m", *words, "--state-dir", mounted.state])
    assert (done.status, done.volume("work")["action"]) == (0, "keep")
    assert mounted.reconcile().volume("work")["action"] == "keep"


# whose ----------------------------------------------------------------------------------------


def test_two_manifests_share_a_state_directory_and_leave_each_others_mounts(mounted: World) -> None:
    other = World(mounted.path)
    other.manifest = f"{mounted.path}/other.toml"
    mount = mount_id(mounted / "work")
    other.volumes(theirs=_work(mounted, "theirs"))
    assert [each["name"] for each in other.reconcile().document["volumes"]] == ["theirs"]
    assert {each["manifest"] for each in record_of(mounted)} == {mounted.manifest, other.manifest}
    other.write("version = 1")
    other.reconcile()
    assert _count_at(mounted, "theirs") == 0
    assert other.mountd("unmount", "--all").status == 0
    assert other.mountd("unmount", "work").status == 64
    assert (mount_id(mounted / "work"), mounted.reconcile().document["changed"]) == (mount, False)


@pytest.mark.parametrize("user", ["1000:1000", "1001:1001"])
def test_another_manifests_mount_at_the_target_is_a_conflict_that_names_it(
    mounted: World, user: str
) -> None:
    other = World(mounted.path)
    other.manifest = f"{mounted.path}/other.toml"
    mount = mount_id(mounted / "work")
    other.volumes(theirs=_work(mounted, user=user))
    volume = other.reconcile(status=1).volume("theirs")
    assert (volume["state"], volume["reason"]) == ("conflict", "foreign-mount")
    assert "`work`" in volume["error"]["message"]
    assert mounted.manifest in volume["error"]["message"]
    assert (mount_id(mounted / "work"), _count_at(mounted, "work")) == (mount, 1)
    assert [each["manifest"] for each in record_of(mounted)] == [mounted.manifest]


def test_a_mount_that_can_not_leave_is_not_buried_by_the_next(world: World) -> None:
    world.folder("source")
    world.volumes(work={**_work(world), "target": world / "deep/er"})
    world.reconcile()
    with (world / "deep/er/hello").open():
        world.volumes(work={**_work(world), "target": world / "deep"})
        world.reconcile(status=1)
        assert _count_at(world, "deep") == 0
        assert (world / "deep/er/hello").exists()
    world.reconcile()
    assert (_count_at(world, "deep/er"), _count_at(world, "deep")) == (0, 1)


# the lock -------------------------------------------------------------------------------------


@contextmanager
def _lock(world: World) -> Iterator[None]:
    Path(world.state).mkdir(exist_ok=True)
    with Path(world.state, "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(world: World, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, MOUNTD, *words, "--manifest", world.manifest, "--state-dir", world.state]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=pipe)


@pytest.mark.fault(12, "eight at once")
def test_eight_runs_at_once_leave_one_mount_at_each_target(world: World) -> None:
    world.folder("source")
    names = ("a", "b", "c")
    world.volumes(**{name: _work(world, name) for name in names})
    runs = [_start(world, "reconcile", "--wait", "100") for _ in range(8)]
    told = [each.communicate()[1] for each in runs]
    assert [each.returncode for each in runs] == [0] * 8, told
    assert [_count_at(world, name) for name in names] == [1, 1, 1]
    assert "".join(told).count("mounted: a") == 1
    assert {each["id"] for each in record_of(world)} == {mount_id(world / each) for each in names}


@pytest.mark.fault(13, "held by another")
@pytest.mark.parametrize("command", [("reconcile",), ("unmount", "--all")])
def test_while_another_pass_holds_the_lock_a_run_ends_with_75_and_names_it(
    mounted: World, command: tuple[str, ...]
) -> None:
    mounted.write("version = 1")
    with _lock(mounted):
        locked = mounted.mountd(*command, "--json", "--wait", "0")
        assert locked.status == 75
        assert f"pid {os.getpid()}" in locked.err
        assert f"pid {os.getpid()}" in locked.document["errors"][0]["message"]
        assert _count_at(mounted, "work") == 1
        assert mounted.reconcile("-n").volume("work")["action"] == "unmount"
        assert mounted.mountd("check").status == 0
    mounted.reconcile()
    assert _count_at(mounted, "work") == 0


@contextmanager
def _stopped_with_the_lock(world: World) -> Iterator[Callable[[], tuple[int, str]]]:
    """A run that stands still just after it got the lock; what is given has it go on and end."""
    options = ("strace", "-f", "-e", "trace=flock", "-e", "inject=flock:signal=STOP:when=1")
    with _start(world, "reconcile", "--wait", "0", before=options) as tracer:
        stderr = tracer.stderr
        assert stderr
        while "stopped by SIGSTOP" not in stderr.readline():
            assert tracer.poll() is None
        (child,) = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()

        def go_on() -> tuple[int, str]:
            os.kill(int(child), signal.SIGCONT)
            told = stderr.read()
            return tracer.wait(), told

        try:
            yield go_on
        finally:
            if tracer.poll() is None:
                os.kill(int(child), signal.SIGKILL)


@pytest.mark.fault(12, "one stands still")
def test_a_run_keeps_any_other_out_until_it_ends(mounted: World) -> None:
    mounted.write("version = 1")
    with _stopped_with_the_lock(mounted) as go_on:
        assert mounted.reconcile("--wait", "0", status=75).document["volumes"] == []
        assert _count_at(mounted, "work") == 1
        assert go_on()[0] == 0
    assert _count_at(mounted, "work") == 0


@pytest.mark.fault(13, "removed between opening and locking")
def test_a_lock_whose_file_was_taken_away_meanwhile_is_not_a_lock(mounted: World) -> None:
    mounted.write("version = 1")
    with _stopped_with_the_lock(mounted) as go_on:
        Path(mounted.state, "lock").unlink()
        with _lock(mounted):
            status, told = go_on()
    assert status == 75, told
    assert _count_at(mounted, "work") == 1


@pytest.mark.fault(13, "removed while held")
def test_a_lock_file_that_was_taken_away_is_made_again(mounted: World) -> None:
    with _lock(mounted):
        Path(mounted.state, "lock").unlink()
        assert mounted.reconcile("--wait", "0").volume("work")["state"] == "mounted"
    assert Path(mounted.state, "lock").exists()


# where it can't be written --------------------------------------------------------------------


def _fill(state: Path) -> None:
    run("dd", "if=/dev/zero", f"of={state}/filler", "bs=4k", check=False)


def _use_up_inodes(state: Path) -> None:
    run("sh", "-c", f"cd {state} && touch $(seq 20)", check=False)


def _make_read_only(state: Path) -> None:
    run("mount", "-o", "remount,ro", str(state))


_FULL: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "full": ("size=16k", "limit", _fill),
    "out of inodes": ("nr_inodes=10", "limit", _use_up_inodes),
    "read-only": ("size=1m", "read-only-filesystem", _make_read_only),
}


@pytest.mark.fault(7, "neither room nor inodes left")
@pytest.mark.fault(8, "read-only, with a record or without")
@pytest.mark.parametrize("state", _FULL)
@pytest.mark.parametrize("is_there", [True, False])
def test_where_the_record_can_not_be_written_nothing_is_changed(
    world: World, state: str, *, is_there: bool
) -> None:
    options, code, spoil = _FULL[state]
    world.folder("source")
    Path(world.state).mkdir()
    run("mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", world.state)
    kept = {"kept": _work(world, "kept")} if is_there else {}
    left = {"left": _work(world, "left")} if is_there else {}
    world.volumes(**kept, **left)
    world.reconcile()
    before = _file(world).read_bytes() if is_there else None
    spoil(Path(world.state))
    if is_there:
        assert world.reconcile().document["changed"] is False  # it has nothing to write
    world.volumes(**kept, work=_work(world))
    document = world.reconcile(status=1).document
    assert not document["changed"]
    found = {each["name"]: (each["state"], each["reason"]) for each in document["volumes"]}
    wanted = {"work": ("failed", code)}
    if is_there:
        wanted |= {"left": ("failed", code)}
        assert found.pop("kept") == ("mounted", None)
    assert found == wanted
    assert _count_at(world, "work") == 0
    assert [_count_at(world, name) for name in ("kept", "left")] == [is_there, is_there]
    assert not Path(f"{_file(world)}.new").exists()
    assert (_file(world).read_bytes() if _file(world).exists() else None) == before


@pytest.mark.fault(8, "RLIMIT_FSIZE")
def test_a_limit_on_the_size_of_files_stops_a_pass_before_it_changes_anything(
    world: World,
) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    words = ["prlimit", "--fsize=10", MOUNTD, "reconcile", "--json"]
    done = world.run([*words, "--manifest", world.manifest, "--state-dir", world.state])
    assert (done.status, done.volume("work")["reason"]) == (1, "io")
    assert _count_at(world, "work") == 0
    assert sorted(os.listdir(world.state)) == ["lock"]
    assert world.reconcile().volume("work")["state"] == "mounted"


def _is_a_file(state: Path) -> None:
    state.write_text("")


def _is_another_users(state: Path) -> None:
    state.mkdir()
    os.chown(state, 1000, 1000)


def _is_writable_by_all(state: Path) -> None:
    state.mkdir()
    state.chmod(0o777)


def _is_a_users_link(state: Path) -> None:
    Path(f"{state}.elsewhere").mkdir()
    state.symlink_to(f"{state}.elsewhere")
    os.chown(state, 1000, 1000, follow_symlinks=False)


def _is_full(state: Path) -> None:
    state.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=1", "tmpfs", str(state))


def _is_read_only(state: Path) -> None:
    state.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755,ro", "tmpfs", str(state))


@pytest.mark.fault(7, "not an inode for the lock")
@pytest.mark.parametrize(
    "is_unusable",
    [_is_a_file, _is_another_users, _is_writable_by_all, _is_a_users_link, _is_full],
)
def test_with_a_state_directory_of_no_use_nothing_is_mounted_and_the_reason_said(
    world: World, is_unusable: Callable[[Path], None]
) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    is_unusable(Path(world.state))
    (error,) = world.reconcile(status=1).document["errors"]
    assert world.state in error["message"]
    assert not (world / "work").exists()


@pytest.mark.fault(8, "read-only from the start")
def test_with_a_new_state_directory_that_is_read_only_nothing_is_mounted(world: World) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    _is_read_only(Path(world.state))
    assert world.reconcile(status=1).volume("work")["reason"] == "read-only-filesystem"
    assert not (world / "work").exists()


def test_a_missing_state_directory_is_made_for_root_alone_to_write(world: World) -> None:
    world.write("version = 1")
    previous = os.umask(0)
    try:
        world.reconcile()
    finally:
        os.umask(previous)
    found = Path(world.state).stat()
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o755)


@pytest.mark.fault(8, "read-only, and the record lost")
def test_a_lost_record_that_can_not_be_written_again_is_told(world: World) -> None:
    """Else an edit would meet a mount that nobody knows to be ours."""
    world.folder("source")
    world.volumes(work=_work(world))
    world.reconcile()
    (Path(world.state) / "record.json").unlink()
    run("mount", "--bind", world.state, world.state)
    run("mount", "-o", "remount,bind,ro", world.state)
    assert world.reconcile(status=1).volume("work")["reason"] == "read-only-filesystem"
    run("umount", world.state)
    assert world.reconcile().volume("work")["action"] == "keep"
