"""Source and target in one: ours lies on the raw one, is replaced there, and goes again."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from world import (
    MOUNTD,
    Mount,
    World,
    disks,
    mount_id,
    mount_idmapped,
    owner,
    record_of,
    run,
    running,
    watching,
)

from mountd.kernel.mount_api import MOUNT_ATTR_NOEXEC, mount_setattr
from mountd.kernel.syscalls import Fd

KERNELS = pytest.mark.parametrize(
    "kernel", [None, DEBIAN_13], ids=lambda it: it.name if it else "ours"
)
# Of 501 and 1500, all other ids as they are.
SWAPPED = ((0, 0, 501), (501, 1500, 1), (502, 502, 998), (1500, 501, 1), (1501, 1501, 4294965794))


class Share(NamedTuple):
    """What a VM has mounted, or not, before us; whose it is as its own mount shows it."""

    world: World
    path: Path
    raw: tuple[int, int]
    before: list[Mount]

    @property
    def hello(self) -> Path:
        return self.path / "hello" if self.path.is_dir() else self.path

    @property
    def made(self) -> Path:
        """Where the user can write: what he makes, or the file itself."""
        return self.path / "made" if self.path.is_dir() else self.path

    def volume(self, user: str | None = "1000:1000", **keys: Any) -> None:
        """The manifest: this, in place."""
        self.world.volumes(share=self.keys(user, **keys))

    def keys(self, user: str | None = "1000:1000", **keys: Any) -> dict[str, Any]:
        return {
            "source": self.path,
            "target": self.path,
            **({"user": user} if user else {}),
            **keys,
        }

    def ours(self) -> list[Mount]:
        """What has been mounted at it since it was as the VM had it."""
        known = {mount.id for mount in self.before}
        return [mount for mount in self.world.mounts() if mount.id not in known]

    def pass_(self, *, status: int = 0, kernel: Kernel | None = None) -> dict[str, Any]:
        return self.world.reconcile(status=status, kernel=kernel).volume("share")

    def see(self, uid: int) -> None:
        """One mount of ours, which shows this user; on the source he makes the owner's files."""
        assert [mount.point for mount in self.ours()] == [str(self.path)]
        assert owner(self.path) == owner(self.hello) == (uid, uid)
        wrote = self.world.as_user(uid, "sh", "-c", 'echo more >>"$0"', str(self.made))
        assert wrote.status == 0, wrote.err
        assert owner(self.made) == (uid, uid)

    def see_raw_one_back(self) -> None:
        """As it was before us, with what users made since."""
        assert self.world.mountd("unmount", "--all").status == 0
        assert self.world.mounts() == self.before
        assert record_of(self.world) == []
        assert owner(self.path) == owner(self.hello) == self.raw
        if self.made.exists():
            assert owner(self.made) == self.raw


def _folder(world: World, _: ExitStack) -> Path:
    return world.folder("share")


def _bound(world: World, _: ExitStack) -> Path:
    path = world / "share"
    path.mkdir()
    run("mount", "--bind", str(world.folder("host")), str(path))
    run("mount", "--make-private", str(path))  # else all on it appears at `host` too
    return path


def _tmpfs(world: World, _: ExitStack) -> Path:
    path = world / "share"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755,nosuid,nodev", "tmpfs", str(path))
    (path / "hello").write_text("hello\n")
    for each in (path, path / "hello"):
        os.chown(each, 501, 20)
    return path


def _ext4(world: World, held: ExitStack) -> Path:
    device = held.enter_context(disks(world))("ext4")
    (world / "share").mkdir()
    run("mount", device, str(world / "share"))
    return world / "share"


def _idmapped(world: World, _: ExitStack) -> Path:
    mount_idmapped(world.folder("host", owner=(501, 501)), world / "share", *SWAPPED)
    run("mount", "--make-private", str(world / "share"))
    return world / "share"


def _file(world: World, _: ExitStack) -> Path:
    (world / "share").write_text("hello\n")
    os.chown(world / "share", 501, 20)
    return world / "share"


_PLACES: dict[str, Callable[[World, ExitStack], Path]] = {
    each.__name__.strip("_"): each for each in (_folder, _bound, _tmpfs, _ext4, _idmapped, _file)
}


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def made(world: World, place: str, held: ExitStack) -> Share:
    path = _PLACES[place](world, held)
    return Share(world, path, owner(path), world.mounts())


@pytest.fixture
def share(world: World, place: str, held: ExitStack) -> Share:
    return made(world, place, held)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(each, marks=pytest.mark.needs_loop) if each == "ext4" else each
        for each in _PLACES
    ],
)
def test_the_user_owns_it_where_it_is_and_unmounting_gives_the_raw_one_back(share: Share) -> None:
    share.volume()
    dry = share.world.reconcile("-n").volume("share")
    assert (dry["action"], share.ours()) == ("mount", [])
    assert share.pass_()["action"] == "mount"
    share.see(1000)
    record = Path(share.world.state, "record.json").read_bytes()
    again = share.world.mountd("reconcile")
    assert again.status == 0
    assert "nothing to do" in again.out
    assert Path(share.world.state, "record.json").read_bytes() == record
    assert share.world.mountd("status").status == 0
    share.see(1000)
    share.see_raw_one_back()


@pytest.mark.parametrize(
    ("parent", "place"),
    [
        *(("world", each) for each in ("folder", "bound", "tmpfs", "idmapped", "file")),
        *(("shared_world", each) for each in ("folder", "tmpfs")),
    ],
)
def test_another_user_never_lets_the_raw_ids_through(
    parent: str, place: str, held: ExitStack, request: pytest.FixtureRequest
) -> None:
    share = made(request.getfixturevalue(parent), place, held)
    others = [share.path / str(uid) for uid in (*share.raw[:1], 1000, 1001) if place != "file"]
    for each in others:
        each.touch()
        os.chown(each, int(each.name), 0)
    share.volume()
    share.pass_()
    with watching(share.path) as seen:
        for uid in (1001, 1002, 1000):
            share.volume(f"{uid}:{uid}")
            told = share.pass_()
            assert (told["action"], told["state"]) == ("replace", "mounted")
            assert [each["field"] for each in told["drift"]] == ["idmap"]
            assert told["notes"] == []
            assert owner(share.path) == (uid, uid)
            swapped = {share.raw[0]: uid, uid: share.raw[0]}  # with whom is raw, not who was seen
            for each in others:
                assert owner(each)[0] == swapped.get(int(each.name), int(each.name))
    uids = {"1000", "1001", "1002"}
    assert seen[share.path] <= uids | {f"{uid} hello" for uid in uids}
    share.see(1000)
    assert share.pass_()["action"] == "keep"
    share.see_raw_one_back()


@pytest.mark.parametrize("place", ["folder", "tmpfs", "idmapped"])
def test_what_is_idmapped_no_more_shows_what_it_showed_before_us(share: Share) -> None:
    share.volume()
    share.pass_()
    share.volume(idmap="never")
    told = share.pass_()
    assert told["action"] == "replace"
    assert (owner(share.path), len(share.ours())) == (share.raw, 1)
    assert share.pass_()["action"] == "keep"
    share.volume("1001:1001")
    assert share.pass_()["action"] == "replace"
    share.see(1001)
    share.see_raw_one_back()


@pytest.mark.parametrize("kernel", [DEBIAN_13, DEBIAN_12], ids=lambda it: it.name)
@pytest.mark.parametrize("place", ["tmpfs"])
def test_an_older_kernel_notes_the_gap_and_makes_no_stack(share: Share, kernel: Kernel) -> None:
    world = share.world
    share.volume()
    assert share.pass_(kernel=kernel)["notes"] == []
    share.see(1000)
    for user, idmap, has_gap in (
        ("1001:1001", "auto", True),
        ("1001:1001", "never", True),
        ("1001:1001", "auto", kernel is DEBIAN_12),  # what has no map can be given one
    ):
        share.volume(user, idmap=idmap)
        planned = world.reconcile("-n", kernel=kernel).volume("share")
        done = share.pass_(kernel=kernel)
        for told in (planned, done):
            assert told["action"] == "replace"
            assert any("gap" in note for note in told["notes"]) == has_gap
        assert len(share.ours()) == len(record_of(world)) == 1
        if idmap == "never":
            assert owner(share.path) == share.raw
        else:
            share.see(int(user[:4]))
        assert share.pass_(kernel=kernel)["action"] == "keep"
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert (world.mounts(), owner(share.made)) == (share.before, share.raw)


@pytest.mark.parametrize(
    ("place", "kernel"), [("folder", None), ("tmpfs", None), ("tmpfs", DEBIAN_12)]
)
def test_other_flags_are_an_adjustment_of_ours_alone(share: Share, kernel: Kernel | None) -> None:
    share.volume()
    share.pass_(kernel=kernel)
    (first,) = share.ours()
    share.volume(noexec=True, atime="noatime")
    told = share.pass_(kernel=kernel)
    assert (told["action"], [each["field"] for each in told["drift"]]) == ("adjust", ["flags"])
    (adjusted,) = share.ours()
    assert adjusted.id == first.id
    assert {"noexec", "noatime", "nosuid", "nodev"} <= adjusted.options
    share.see(1000)
    share.volume()  # which is as the source has it
    assert share.pass_(kernel=kernel)["action"] == "adjust"
    assert share.ours() == [first]
    assert share.pass_(kernel=kernel)["action"] == "keep"
    assert share.world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert share.world.mounts() == share.before


@pytest.mark.parametrize(("place", "kernel"), [("bound", None), ("tmpfs", DEBIAN_12)])
def test_flags_of_the_raw_mount_underneath_are_followed(
    share: Share, kernel: Kernel | None
) -> None:
    with Fd(os.open(share.path, os.O_PATH)) as raw:
        share.volume()
        share.pass_(kernel=kernel)
        mount_setattr(raw, set_=MOUNT_ATTR_NOEXEC)
        told = share.pass_(kernel=kernel)
        assert (told["action"], [each["field"] for each in told["drift"]]) == ("adjust", ["flags"])
        assert "noexec" in share.ours()[-1].options
        assert share.pass_(kernel=kernel)["action"] == "keep"
        mount_setattr(raw, set_=0, clear=MOUNT_ATTR_NOEXEC)
        assert share.pass_(kernel=kernel)["action"] == "adjust"
        assert "noexec" not in share.ours()[-1].options
        share.see(1000)


def _reconfigure(path: Path, word: str) -> None:
    """Make the filesystem `ro` or `rw`, and no mount of it (fspick(2))."""
    libc = ctypes.CDLL(None)
    with Fd(libc.syscall(433, -100, os.fsencode(path), 0)) as picked:
        for command, key in ((0, word.encode()), (7, None)):
            assert libc.syscall(431, picked.number, command, key, None, 0) == 0


@pytest.mark.fault(25, "it decides on the idmapping")
@KERNELS
@pytest.mark.parametrize("place", ["tmpfs"])
def test_a_raw_filesystem_that_turns_read_only_needs_no_idmapping_and_back(
    share: Share, kernel: Kernel | None
) -> None:
    """Read only, and readable by the user: rule 2 of DESIGN's idmappings."""
    share.volume()
    for word, action, shown in (
        ("rw", "mount", (1000, 1000)),
        ("ro", "replace", share.raw),
        ("rw", "replace", (1000, 1000)),
    ):
        _reconfigure(share.path, word)
        told = share.pass_(kernel=kernel)
        assert (told["action"], owner(share.path)) == (action, shown)
        assert [mount.point for mount in share.ours()] == [str(share.path)]
        assert share.pass_(kernel=kernel)["action"] == "keep"


@pytest.mark.parametrize(
    ("place", "kernel"),
    [
        *((each, None) for each in ("folder", "bound", "tmpfs", "idmapped", "file")),
        ("folder", DEBIAN_13),
        ("tmpfs", DEBIAN_12),
    ],
)
def test_without_a_record_ours_is_adopted_where_it_is_as_desired(
    share: Share, kernel: Kernel | None
) -> None:
    share.volume()
    share.pass_(kernel=kernel)
    (ours,) = share.ours()
    Path(share.world.state, "record.json").unlink()
    assert share.pass_(kernel=kernel)["action"] == "keep"
    assert share.ours() == [ours]
    assert len(record_of(share.world)) == 1
    assert share.pass_(kernel=kernel)["action"] == "keep"
    share.volume("1001:1001")
    told = share.world.reconcile(kernel=kernel).document["volumes"]
    # before 6.15 nobody tells the old idmapping: the source has to be uncovered first
    assert [each["action"] for each in told] == (["mount", "unmount"] if kernel else ["replace"])
    share.see(1001)
    assert share.world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert (share.world.mounts(), owner(share.made)) == (share.before, share.raw)


@pytest.mark.parametrize("place", ["folder", "tmpfs"])
def test_without_a_record_ours_that_differs_is_a_conflict_and_stays_one(share: Share) -> None:
    """Also once there is a record again: it must not pass for the source then, and get a stack."""
    world = share.world
    share.volume()
    share.pass_()
    (ours,) = share.ours()
    Path(world.state, "record.json").unlink()
    other = {"source": world.folder("other"), "target": world / "to", "user": "1000:1000"}
    world.volumes(share=share.keys("1001:1001"), other=other)
    for _ in range(2):
        told = share.pass_(status=1)
        assert (told["state"], told["reason"]) == ("conflict", "foreign-mount")
        assert [each for each in share.ours() if each.point == str(share.path)] == [ours]
        assert owner(share.path) == (1000, 1000)


@pytest.mark.parametrize("user", ["1000:1000", None])
@pytest.mark.parametrize("place", ["tmpfs", "bound"])
def test_without_a_record_the_sources_own_mount_is_never_adopted(
    share: Share, user: str | None
) -> None:
    """Not even where it is just as desired: it would be taken off one day."""
    run("mount", "-o", "remount,bind,nosuid,nodev", str(share.path))
    before = share.world.mounts()
    share.volume(user)
    for _ in range(2):
        assert share.pass_()["action"] == "mount"
        (ours,) = share.ours()
        assert ours.point == str(share.path)
        run("umount", str(share.path))
        Path(share.world.state, "record.json").unlink()
    share.pass_()
    share.world.write("version = 1")
    assert share.world.reconcile().volume("share")["action"] == "unmount"
    assert share.world.mounts() == before


@pytest.mark.parametrize("user", ["1000:1000", None])
@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_mount_of_it_on_itself_is_the_source_where_the_record_does_not_know_it(
    share: Share, user: str | None
) -> None:
    world = share.world
    world.volumes(other={"source": world.folder("other"), "target": world / "to"})
    world.reconcile()
    run("mount", "--bind", "-o", "nosuid,nodev", str(share.path), str(share.path))
    before = world.mounts()
    world.volumes(share=share.keys(user), other={"source": world / "other", "target": world / "to"})
    assert share.pass_()["action"] == "mount"
    assert len(world.mounts()) == len(before) + 1
    assert share.pass_()["action"] == "keep"
    assert world.mountd("unmount", "share").status == 0
    assert world.mounts() == before


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_mount_of_it_on_itself_without_any_record_is_left_alone(share: Share) -> None:
    """It could be ours, so nothing goes on top; it isn't as desired, so it is nobody's to take."""
    run("mount", "--bind", str(share.path), str(share.path))
    before = share.world.mounts()
    share.volume()
    for _ in range(2):
        told = share.pass_(status=1)
        assert (told["state"], told["reason"]) == ("conflict", "foreign-mount")
        assert str(share.path) in told["error"]["hint"]
        assert share.world.mounts() == before
    run("umount", str(share.path))
    assert share.pass_()["action"] == "mount"
    share.see(1000)


@pytest.mark.parametrize(
    ("place", "cover", "user", "kernel"),
    [
        ("folder", "tmpfs", "1000:1000", None),
        ("folder", "self", "1001:1001", None),
        ("tmpfs", "self", "1000:1000", DEBIAN_12),
        ("tmpfs", "other", "1001:1001", None),
        ("folder", "other", "1000:1000", DEBIAN_13),
    ],
)
def test_what_someone_else_put_over_ours_is_a_conflict(
    share: Share, cover: str, user: str, kernel: Kernel | None
) -> None:
    world = share.world
    share.volume()
    share.pass_(kernel=kernel)
    (ours,) = share.ours()
    what = {"self": share.path, "other": world.folder("other")}
    words = ["--bind", str(what[cover])] if cover in what else ["-t", "tmpfs", "tmpfs"]
    run("mount", *words, str(share.path))
    covered = world.mounts()
    share.volume(user)
    for _ in range(2):
        told = share.pass_(status=1, kernel=kernel)
        assert (told["state"], told["reason"]) == ("conflict", "foreign-mount")
        assert world.mounts() == covered
    assert world.mountd("unmount", "share", kernel=kernel).status == 1
    assert world.mounts() == covered
    run("umount", str(share.path))
    assert share.ours() == [ours]
    share.pass_(kernel=kernel)
    share.see(int(user[:4]))


@KERNELS
@pytest.mark.parametrize("place", ["tmpfs"])
def test_another_raw_mount_in_its_place_is_the_source_from_then_on(
    share: Share, kernel: Kernel | None
) -> None:
    share.volume()
    share.pass_(kernel=kernel)
    for _ in range(2):
        run("umount", str(share.path))
    run("mount", "-t", "tmpfs", "-o", "mode=755,uid=600,gid=600", "tmpfs", str(share.path))
    assert share.pass_(kernel=kernel)["action"] == "mount"
    assert owner(share.path) == (1000, 1000)
    assert [mount.point for mount in share.world.mounts()] == [str(share.path)] * 2
    assert share.world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert owner(share.path) == (600, 600)


@pytest.mark.parametrize("place", ["folder", "idmapped"])
def test_ours_taken_off_by_hand_comes_back(share: Share) -> None:
    share.volume()
    share.pass_()
    run("umount", str(share.path))
    status = share.world.mountd("status", "--json")
    assert status.status == 1
    assert [each["field"] for each in status.volume("share")["drift"]] == ["mount"]
    assert share.pass_()["action"] == "mount"
    share.see(1000)
    share.see_raw_one_back()


@pytest.mark.parametrize("place", ["folder", "tmpfs", "file"])
def test_a_new_owner_on_the_source_is_followed(share: Share) -> None:
    """Seen through ours, he is whom the old swap makes of him; the new swap is his own."""
    share.volume()
    with Fd(os.open(share.path, os.O_PATH)) as raw:
        share.pass_()
        for path in (f"/proc/self/fd/{raw.number}", share.hello):
            os.chown(path, 700, 700)
    # the root by the raw mount, `hello` through ours: both are 700 there, whom no swap moves
    told = share.pass_()
    assert told["action"] == "replace"
    share.see(1000)
    assert share.world.mountd("unmount", "--all").status == 0
    assert owner(share.path) == owner(share.hello) == owner(share.made) == (700, 700)


def test_a_file_replaced_by_rename_from_outside_is_followed_only_once_ours_is_off(
    world: World, held: ExitStack
) -> None:
    """In place a rename over it is EBUSY: the editor is told, and nothing is lost."""
    share = made(world, "file", held)
    share.volume()
    share.pass_()
    (world / "new").write_text("new\n")
    with pytest.raises(OSError, match="busy"):
        (world / "new").rename(share.path)
    assert share.pass_()["action"] == "keep"
    share.see(1000)


@pytest.mark.parametrize("place", ["tmpfs"])
def test_a_replacement_that_cannot_be_had_leaves_the_old_one(share: Share) -> None:
    share.volume()
    share.pass_()
    (old,) = share.ours()
    share.volume("nobody-here")
    with watching(share.path) as seen:
        assert share.pass_(status=1)["reason"] == "no-user"
    assert seen[share.path] == {"1000", "1000 hello"}
    assert share.ours() == [old]


@pytest.mark.parametrize(
    ("call", "kernel"),
    [
        *((call, None) for call in ("move_mount", "umount2")),
        *((call, DEBIAN_13) for call in ("open_tree", "mount_setattr", "move_mount")),
        *((call, DEBIAN_12) for call in ("move_mount", "umount2")),
    ],
)
def test_whatever_the_kernel_refuses_one_of_ours_is_there_and_the_next_pass_mends_it(
    world: World, kernel: Kernel | None, call: str, held: ExitStack
) -> None:
    share = made(world, "bound", held)
    share.volume()
    share.pass_(kernel=kernel)
    failures = 0
    for when in range(1, 12):
        uid = 1000 + when % 2
        share.volume(f"{uid}:{uid}")
        trace = f"{world.path}/trace"
        words = ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={call}"]
        words += ["-e", f"inject={call}:error=ENOSPC:when={when}"]
        command = [MOUNTD, "reconcile", "-f", world.manifest, "--state-dir", world.state]
        whole = [*words, *command]
        told = world.run(kernel.command(*whole) if kernel else whole)
        assert told.status in (0, 1), told
        failures += told.status
        assert owner(share.path) in ((1000, 1000), (1001, 1001)), f"{call} {when}: {told.err}"
        share.pass_(kernel=kernel)
        assert share.pass_(kernel=kernel)["action"] == "keep", f"{call} {when}"
        share.see(uid)
        assert len(record_of(world)) == 1
        if "INJECTED" not in Path(trace).read_text():
            break
    else:
        pytest.fail(f"{call} is made more often than was tried")
    assert failures, f"no refused {call} was told"
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert (world.mounts(), owner(share.made)) == (share.before, share.raw)


@KERNELS
def test_someone_inside_keeps_it_busy_and_both_mounts_stay(
    world: World, kernel: Kernel | None, held: ExitStack
) -> None:
    share = made(world, "tmpfs", held)
    share.volume()
    share.pass_(kernel=kernel)
    (ours,) = share.ours()
    with running("sh", "-c", "echo; read go", cwd=share.path):
        told = world.mountd("unmount", "--all", "--json", kernel=kernel).volume("share")
        assert told["reason"] == "busy"
        assert share.ours() == [ours]
        share.volume("1001:1001")
        assert share.pass_(kernel=kernel)["action"] == "replace"
        share.see(1001)
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert world.mounts() == share.before


def test_volumes_of_other_targets_on_it_get_what_is_stored(world: World) -> None:
    """A source below an in-place target is reached through ours; its owner is the stored one."""
    share = world.folder("share")
    world.folder("share/inner", owner=(502, 21))
    world.volumes(
        inner={"source": share / "inner", "target": world / "to", "user": "2000:2000"},
        share={"source": share, "target": share, "user": "1000:1000"},
    )
    world.reconcile()
    assert owner(share) == (1000, 1000)
    assert owner(world / "to") == owner(world / "to/hello") == (2000, 2000)
    assert world.as_user(2000, "touch", str(world / "to/made")).status == 0
    assert {each["action"] for each in world.reconcile().document["volumes"]} == {"keep"}
    assert mount_id(world / "to") != mount_id(share)
    world.mountd("unmount", "--all")
    assert owner(share / "inner/made") == (502, 21)
