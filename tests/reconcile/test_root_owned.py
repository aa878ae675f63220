"""Nobody becomes another by a setuid file that a swap of ids let him leave: by whichever mount.

Against the kernel a user tries it; the judgement itself is a function of values.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from deep_folders import FARTHEST, deep
from watcher import eventually, watch
from world import Result, World, disks, owner, record_of, run, running

from mountd.core.actions import Judgement
from mountd.core.choice import Choice, shown_owner
from mountd.core.desired import Desired, DesiredMount, Unready, View
from mountd.core.exposure import asked, judge
from mountd.core.idmapping import Idmapping, swap
from mountd.core.model import Fault, Flags, Ids, User, Volume
from mountd.core.mounts import Managed, Nobodys, Observed, ObservedMount

ROOTS = "root:x:0:0::/:/bin/sh\n"


def cover(world: World, name: str, content: str) -> None:
    """Have this file of /etc say something else, as far as this test sees."""
    path = world / name
    path.write_text(content)
    run("mount", "--bind", str(path), f"/etc/{name}")


@pytest.fixture
def fs(world: World) -> Path:
    """A filesystem of its own whose only mount is nosuid, with a folder `src` of root's on it."""
    cover(world, "passwd", ROOTS)
    for name in ("subuid", "subgid"):
        if Path("/etc", name).exists():
            cover(world, name, "")
    path = world / "fs"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", str(path))
    for name in ("src", "other"):
        (path / name).mkdir()
    return path


def swapped(world: World, source: Path, **keys: Any) -> dict[str, Any]:
    """A volume in which root and uid 1000 are exchanged."""
    return {"source": source, "target": world / "t", "user": "1000:1000", **keys}


def attack(world: World, target: Path, suid: Path, uid: int = 1000) -> int | None:
    """Leave a setuid file through the target and run it by another path: whom one becomes by it.

    None if it can't be left.
    """
    script = 'cp /usr/bin/id "$1/evil" && chmod 4755 "$1/evil"'
    if world.as_user(uid, "sh", "-c", script, "sh", str(target)).status:
        return None
    done = world.as_user(uid, str(suid / "evil"), "-u")
    return int(done.out) if done.out else None


def refused(result: Result, name: str = "v") -> dict[str, Any]:
    """See that this volume is refused, and return what is said of it."""
    volume = result.volume(name)
    assert (volume["state"], volume["reason"]) == ("failed", "root-owned"), volume
    return volume


def is_mounted(world: World, name: str = "t") -> bool:
    return any(each.point == str(world / name) for each in world.mounts())


# who shows the files


def suid_elsewhere(world: World, source: Path, what: str = "src") -> None:
    """Mount a folder of the filesystem, or all of it, at another place, suid."""
    place = world / "elsewhere"
    place.mkdir()
    run("mount", "--bind", str(source.parent / what), str(place))
    run("mount", "-o", "remount,bind,suid", str(place))


@pytest.mark.parametrize("what", ["src", ".", "src/below"])
def test_a_mount_anywhere_that_shows_some_of_the_files_without_nosuid_counts(
    world: World, fs: Path, what: str
) -> None:
    (fs / "src/below").mkdir()
    world.volumes(v=swapped(world, fs / "src"))
    world.reconcile()
    assert is_mounted(world)
    suid_elsewhere(world, fs / "src", what)
    dry = refused(world.reconcile("--dry-run", status=1))
    assert dry["action"] == "unmount"
    assert is_mounted(world)
    said = refused(world.reconcile(status=1))
    assert said == dry
    assert str(world / "elsewhere") in said["error"]["message"]
    assert not is_mounted(world)
    assert refused(world.reconcile(status=1))["action"] is None
    assert record_of(world) == []
    run("umount", str(world / "elsewhere"))
    world.reconcile()
    assert is_mounted(world)


def test_a_mount_of_other_files_or_with_nosuid_does_not(world: World, fs: Path) -> None:
    suid_elsewhere(world, fs / "src", "other")
    (world / "too").mkdir()
    run("mount", "--bind", str(fs / "src"), str(world / "too"))
    run("umount", "--lazy", str(fs))
    world.volumes(v=swapped(world, world / "too"))
    world.reconcile()
    assert attack(world, world / "t", world / "too") == 1000


def test_a_mount_counts_to_which_the_files_can_be_moved(world: World, fs: Path) -> None:
    """By rename(2) in any mount that shows both, nosuid or not."""
    suid_elsewhere(world, fs / "src", "other")
    (fs / "other").chmod(0o777)
    world.volumes(v=swapped(world, fs / "src", owner="0:0"))
    world.reconcile()
    assert attack(world, world / "t", fs / "src") == 1000
    world.as_user(1000, "chmod", "777", str(world / "t"))
    world.as_user(1000, "mv", str(fs / "src/evil"), str(fs / "other/evil"))
    assert world.as_user(1000, str(world / "elsewhere/evil"), "-u").out == "0\n"
    world.volumes(v=swapped(world, fs / "src"))
    refused(world.reconcile(status=1))
    run("mount", "-o", "remount,bind,ro,nosuid", str(fs))
    (world / "src").mkdir()
    run("mount", "--bind", str(fs / "src"), str(world / "src"))
    run("mount", "-o", "remount,bind,rw,nosuid", str(world / "src"))
    world.volumes(v=swapped(world, world / "src"))
    world.reconcile()


def test_a_nosuid_mount_of_a_folder_that_is_suid_under_its_own_path_is_no_way_out(
    world: World,
) -> None:
    source = world.folder("data", owner=(0, 0))
    world.volumes(
        a={"source": source, "target": world / "a"}, v=swapped(world, world / "a", recursive=True)
    )
    assert "/mnt" in refused(world.reconcile(status=1))["error"]["message"]
    assert is_mounted(world, "a")


@pytest.mark.parametrize("top", ["nosuid", "ro"])
def test_each_mount_below_a_recursive_volumes_source_is_judged(
    world: World, fs: Path, top: str
) -> None:
    (fs / "src/sub").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(fs / "src/sub"))
    run("mount", "-o", f"remount,bind,nosuid,{top}", str(fs))
    world.volumes(v=swapped(world, fs / "src", recursive=True, idmap="always"))
    refused(world.reconcile(status=1))
    run("mount", "-o", "remount,bind,nosuid", str(fs / "src/sub"))
    world.reconcile()
    assert attack(world, world / "t/sub", fs / "src/sub") == 1000


def test_the_read_only_key_is_about_the_mounts_below_too(world: World, fs: Path) -> None:
    (fs / "src/sub").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(fs / "src/sub"))
    keys = {"recursive": True, "idmap": "always", "read_only": True}
    world.volumes(v=swapped(world, fs / "src", **keys))
    world.reconcile()
    assert attack(world, world / "t/sub", fs / "src/sub") is None


@pytest.mark.parametrize("order", [("v", "w"), ("w", "v")])
@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("fs/src", {}),
        ("fs", {"recursive": True}),
        ("t", {}),
        ("w0/src", {}),  # by yet another volume, which is in place only later
    ],
)
def test_another_volume_that_shows_them_without_nosuid_counts(
    world: World, fs: Path, order: tuple[str, str], source: str, keys: dict[str, Any]
) -> None:
    (fs / "src/hello").touch()
    suid = {"source": world / source, "target": world / "w", "nosuid": False, **keys}
    volumes = {"v": swapped(world, fs / "src"), "w": suid}
    first = {"w0": {"source": fs, "target": world / "w0"}} if source.startswith("w0") else {}
    world.volumes(**first, **{name: volumes[name] for name in order})
    for _ in range(2):
        said = refused(world.reconcile(status=1))
        assert "volume `w`" in said["error"]["message"]
        assert not is_mounted(world)
        assert is_mounted(world, "w") == (source != "t")


def test_the_volume_itself_counts(world: World, fs: Path) -> None:
    """What another leaves on the source raw is root's in a swap that is suid."""
    world.volumes(v=swapped(world, fs / "src", owner="0:0", nosuid=False))
    world.reconcile()
    world.as_user(1000, "chmod", "777", str(world / "t"))
    assert attack(world, fs / "src", world / "t") == 0
    world.volumes(v=swapped(world, fs / "src", nosuid=False))
    assert "volume `v`" in refused(world.reconcile(status=1))["error"]["message"]


def test_a_volume_that_leaves_or_becomes_nosuid_is_waited_for(world: World, fs: Path) -> None:
    """One pass, with whichever volume first; and what is in the way meanwhile isn't mounted."""
    suid = {"source": fs / "src", "nosuid": False}
    leaves = {**suid, "target": world / "leaves"}
    world.volumes(leaves=leaves, stays={**suid, "target": world / "stays"})
    world.reconcile()
    world.volumes(
        v=swapped(world, fs / "src"),
        stays={**suid, "target": world / "stays", "nosuid": True},
    )
    dry = world.reconcile("--dry-run").volume("v")
    assert {"after stays", f"after {world / 'leaves'} is taken off"} <= {*dry["notes"]}
    world.reconcile()
    assert is_mounted(world)
    assert is_mounted(world, "stays")
    assert not is_mounted(world, "leaves")


def test_what_can_not_leave_is_in_the_way(world: World, fs: Path) -> None:
    world.volumes(leaves={"source": fs / "src", "target": world / "leaves", "nosuid": False})
    world.reconcile()
    world.volumes(v=swapped(world, fs / "src"))
    with running("sh", "-c", "echo in; read x", cwd=world / "leaves"):
        refused(world.reconcile(status=1))
    world.reconcile()
    assert is_mounted(world)


@pytest.mark.needs_loop
def test_a_device_that_is_mounted_elsewhere_too_is_no_filesystem_of_its_own(world: World) -> None:
    (world / "disk").mkdir()
    with disks(world) as disk:
        device = disk("ext4")
        run("mount", device, str(world / "disk"))
        os.chown(world / "disk", 0, 0)
        keys = {"type": "ext4", "source": device, "user": "1000:1000"}
        world.volumes(v={**keys, "target": world / "t"})
        try:
            assert str(world / "disk") in refused(world.reconcile(status=1))["error"]["message"]
            run("mount", "-o", "remount,bind,nosuid", str(world / "disk"))
            world.reconcile()
            assert attack(world, world / "t", world / "disk") == 1000
            suid = {**keys, "user": "0:0", "target": world / "w", "nosuid": False}
            world.volumes(v={**keys, "target": world / "t"}, w=suid)
            refused(world.reconcile(status=1))
            assert not is_mounted(world)
        finally:
            run("umount", str(world / "disk"))
            world.mountd("unmount", "--all")


# the reason it was made ends


class Way(NamedTuple):
    """Why a swap may be made, and what ends that."""

    keys: dict[str, Any]
    end: Callable[[World], None]
    uid: int = 1000


def _remount(world: World) -> None:
    run("mount", "-o", "remount,bind,suid", str(world / "fs"))


def _withdraw(world: World) -> None:
    text = Path(world.manifest).read_text()
    Path(world.manifest).write_text(text.replace('owner = "0:0"', ""))
    _remount(world)


def _account(name: str, line: str) -> Callable[[World], None]:
    return lambda world: cover(world, name, ROOTS + line if name == "passwd" else line)


WAYS = {
    "nosuid": Way({}, _remount),
    "owner": Way({"owner": "0:0"}, _withdraw),
    "account": Way({"user": "root"}, _account("passwd", "late:x:7777:7777::/:/bin/sh\n"), 7777),
    "subuid": Way({"user": "root"}, _account("subuid", "late:7700:100\n"), 7777),
    "subgid, as C reads numbers": Way(
        {"user": "0"}, _account("subgid", "late:0x1e00:0100\n"), 7700
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_what_was_mounted_comes_off_when_the_reason_ends(
    world: World, fs: Path, way: str, *, is_busy: bool
) -> None:
    keys, end, uid = WAYS[way]
    if not Path("/etc", way.partition(",")[0]).exists() and way.startswith("sub"):
        pytest.skip("there is no such file to cover")
    source = fs / "src"
    if "user" in keys:
        os.chown(source, uid, uid)
        (source / "roots").mkdir()
        _remount(world)
    world.volumes(v=swapped(world, source, **keys))
    world.reconcile()
    assert is_mounted(world)
    end(world)
    inside = world / "t"
    script = "import os, sys; os.setuid(int(sys.argv[1])); print('in', flush=True); input()\n"
    script += "try: open('evil', 'x')\nexcept OSError as error: print(error.strerror)"
    if not is_busy:
        said = refused(world.reconcile(status=1))
        assert said["action"] == "unmount"
    else:
        with running(sys.executable, "-c", script, str(uid), cwd=inside) as process:
            refused(world.reconcile(status=1))
            assert process.stdin and process.stdout
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.read() == "Read-only file system\n"
    assert not is_mounted(world)
    assert attack(world, world / "t", source, uid) is None
    assert refused(world.reconcile(status=1))["action"] is None


def test_it_comes_off_also_where_the_volume_is_in_other_trouble(world: World, fs: Path) -> None:
    cover(world, "passwd", ROOTS + "node:x:1000:1000::/:/bin/sh\n")
    world.volumes(v=swapped(world, fs / "src", user="node"))
    world.reconcile()
    run("umount", "/etc/passwd")
    cover(world, "passwd", ROOTS)
    pending = world.reconcile(status=1).volume("v")
    assert (pending["reason"], pending["notes"]) == ("no-user", ["what is mounted there stays"])
    _remount(world)
    refused(world.reconcile(status=1))
    assert not is_mounted(world)
    assert world.reconcile(status=1).volume("v")["reason"] == "no-user"


def test_a_clone_of_it_comes_off_too_and_what_lies_in_it_stays(world: World, fs: Path) -> None:
    (fs / "src/sub").mkdir()
    other = world.folder("plain")
    world.volumes(
        v=swapped(world, fs / "src"),
        clone={"source": world / "t/sub", "target": world / "clone"},
        inner={"source": other, "target": world / "t/sub/inner"},
    )
    world.reconcile()
    _remount(world)
    result = world.reconcile(status=1)
    refused(result)
    assert not is_mounted(world)
    assert not is_mounted(world, "clone")
    assert (world / "t/sub/inner/hello").exists()
    assert world.reconcile(status=1).volume("inner")["error"]["code"] == "root-owned"
    run("mount", "-o", "remount,bind,nosuid", str(fs))
    world.reconcile()
    assert (world / "t/sub/inner/hello").exists()
    assert is_mounted(world, "clone")


def test_what_is_mounted_stays_where_it_does_no_harm(world: World, fs: Path) -> None:
    world.volumes(v=swapped(world, fs / "src", read_only=True, idmap="always"))
    _remount(world)
    world.reconcile()
    world.volumes(v=swapped(world, fs / "src", idmap="always"))
    said = refused(world.reconcile(status=1))
    assert said["notes"] == ["what is mounted there stays"]
    assert attack(world, world / "t", fs / "src") is None


def test_an_account_file_that_others_could_write_proves_nothing(world: World, fs: Path) -> None:
    os.chown(fs / "src", 7777, 7777)
    _remount(world)
    world.volumes(v=swapped(world, fs / "src", user="0:0"))
    world.reconcile()
    (world / "passwd").chmod(0o666)
    assert "/etc/passwd can be written" in refused(world.reconcile(status=1))["error"]["message"]
    assert not is_mounted(world)


def test_a_watch_takes_it_off_as_soon_as_it_may(world: World, fs: Path) -> None:
    (fs / "src/hello").touch()
    world.volumes(v=swapped(world, fs / "src"))
    with watch(world) as watcher:
        assert is_mounted(world)
        suid_elsewhere(world, fs / "src")
        eventually(lambda: not is_mounted(world))
        watcher.tells("root-owned" if "root-owned" in watcher.log else "failed: v: uid 1000", 1)
        watcher.tells("unmounted: v from /mnt/t", 1)
        run("umount", str(world / "elsewhere"))
        eventually(lambda: is_mounted(world))
        assert watcher.stop() == 0


def test_a_watch_sees_subordinate_ids_that_are_given_out(world: World, fs: Path) -> None:
    if not Path("/etc/subuid").exists():
        pytest.skip("there is no such file to cover")
    os.chown(fs / "src", 7777, 7777)
    _remount(world)
    world.volumes(v=swapped(world, fs / "src", user="0:0"))
    with watch(world) as watcher:
        assert is_mounted(world)
        (world / "subuid").write_text("late:7000:1000\n")
        eventually(lambda: not is_mounted(world))
        assert watcher.stop() == 0


# accounts


def note_of(result: Result) -> str:
    return "\n".join(note for note in result.volume("v")["notes"] if "setuid" in note)


def test_that_accounts_could_become_each_other_is_said_with_the_way_out(
    world: World, fs: Path
) -> None:
    cover(world, "passwd", f"{ROOTS}alice:x:4001:4001::/:\nbob:x:4002:4002::/:\n")
    os.chown(fs / "src", 4001, 4001)
    keys = {"source": fs / "src", "target": world / "t", "user": "bob"}
    world.volumes(v=keys)
    assert note_of(world.reconcile("--dry-run")) == ""
    _remount(world)
    said = note_of(world.reconcile("--dry-run"))
    assert all(word in said for word in ("uid 4001", "uid 4002", str(fs), "nosuid"))
    assert note_of(world.reconcile()) == said
    assert attack(world, world / "t", fs / "src", 4002) == 4001
    assert note_of(world.mountd("check", "--json")) == said
    assert said in " ".join(world.mountd("check").err.split())
    world.volumes(v={**keys, "read_only": True, "idmap": "always"})
    assert note_of(world.reconcile()) == ""
    run("mount", "-o", "remount,bind,nosuid", str(fs))  # the way out
    world.volumes(v=keys)
    assert note_of(world.reconcile()) == ""
    assert attack(world, world / "t", fs / "src", 4002) is None or owner(fs / "src")[0] == 4001


def test_nobody_can_become_an_owner_that_is_no_account(world: World, fs: Path) -> None:
    os.chown(fs / "src", 501, 20)
    _remount(world)
    world.volumes(v=swapped(world, fs / "src"))
    assert note_of(world.reconcile()) == ""


def test_no_setgid_file_can_be_left_in_a_read_only_volume(world: World, fs: Path) -> None:
    world.volumes(v=swapped(world, fs / "src", read_only=True, idmap="always"))
    assert not any("setgid" in note for note in world.reconcile().volume("v")["notes"])


# the judgement, as a function

NOSUID = Flags(read_only=False, nosuid=True, nodev=True, noexec=False, atime="relatime")
SUID = NOSUID._replace(nosuid=False)
OURS = "/m.toml"


def both(one: int, other: int) -> Idmapping:
    return Idmapping(swap(one, other), swap(one, other))


def meant(
    name: str = "v",
    *,
    owner: int = 0,
    user: int = 1000,
    through: Idmapping | None = None,
    views: tuple[View, ...] = (View(7, "/src", is_read_only=False),),
    source: str = "/src",
    **keys: Any,
) -> DesiredMount:
    """A volume that swaps its owner as stored, seen by an idmapped source or not, with a user."""
    volume = Volume(name, source, f"/{name}", user=str(user), **keys)
    stored = volume.owner or Ids(owner, owner)
    seen = shown_owner(stored, through)
    return DesiredMount(
        volume, source, volume.target, "folder", "ext4", 7, 1, User(user, user), seen,
        Choice(both(seen.uid, user), "swap", stored, Ids(user, user), ()),
        NOSUID if volume.nosuid else SUID, views, through,
    )  # fmt: skip


def chosen(**keys: Any) -> DesiredMount:
    """The same, where something else was chosen."""
    mount = meant()
    return mount._replace(choice=mount.choice._replace(**keys))


def there(
    number: int, point: str, root: str = "/src", flags: Flags = SUID, device: int = 7,
    idmap: Idmapping | None = None,
) -> ObservedMount:  # fmt: skip
    return ObservedMount(
        number + (1 << 31), 1, point, root, "ext4", device, flags, False, idmap, bool(idmap)
    )


def judged(
    *desired: Desired,
    mounts: tuple[ObservedMount, ...] = (),
    record: tuple[Managed, ...] = (),
    leaving: tuple[Managed, ...] = (),
    done: dict[str, Fault | None] | None = None,
    nobodys: Nobodys = Nobodys(),  # noqa: B008 - a value
    waits: bool = True,
) -> Judgement:
    observed = Observed({each.id: each for each in mounts}, {}, tells_idmaps=True, nobodys=nobodys)
    return judge(desired, record, observed, leaving, OURS, done or {}, waits=waits)


@pytest.mark.parametrize(
    ("owner", "user", "through", "is_given_away"),
    [
        (0, 1000, None, True),
        (501, 0, None, True),
        (0, 0, None, False),
        (501, 1000, None, False),
        (501, 501, None, False),
        (0, 1000, both(0, 600), True),  # stored root is seen as 600, and then as 1000
        (501, 600, both(0, 600), True),  # the user is whom stored root is seen as
        (501, 1000, both(0, 600), False),
        (600, 1000, both(0, 600), True),  # seen as 0: whoever is root here could have been 1000
        (501, 0, both(0, 600), True),
        (0, 600, both(0, 600), False),  # nothing is exchanged
    ],
)
def test_a_swap_gives_root_away_where_one_of_the_two_is_root_as_stored_or_as_seen(
    owner: int, user: int, through: Idmapping | None, *, is_given_away: bool
) -> None:
    mount = meant(owner=owner, user=user, through=through)
    nobodys = Nobodys(frozenset({501}) if user else frozenset())
    found = judged(mount, mounts=(there(1, "/src"),), nobodys=nobodys)
    assert bool(found.refused) == is_given_away


RO = View(7, "/src", is_read_only=True)
BELOW = View(8, "/", is_read_only=False)


@pytest.mark.parametrize(
    ("mount", "is_refused"),
    [
        (meant(), True),
        (meant(type="ext4"), True),
        (meant(owner=0), True),
        (meant()._replace(volume=Volume("v", "/src", "/v", user="1000", owner=Ids(0, 0))), False),
        (meant(views=(RO,)), False),
        (meant(views=(RO, BELOW)), True),
        (meant(views=(View(8, "/src", is_read_only=False),)), False),
        (chosen(idmap=None), False),
        (chosen(rule="extents"), False),
    ],
)
def test_a_swap_with_root_is_refused_unless_nobody_can_write_or_the_manifest_vouches(
    mount: DesiredMount, *, is_refused: bool
) -> None:
    assert bool(judged(mount, mounts=(there(1, "/a"),)).refused) == is_refused


@pytest.mark.parametrize(
    ("mount", "is_shown"),
    [
        (there(1, "/a"), True),
        (there(1, "/a", "/src//deleted"), True),
        (there(1, "/a", flags=NOSUID), False),
        (there(1, "/a", device=8), False),
        (there(1, "/a", "/"), True),
        (there(1, "/a", "/src/x/y"), True),
        (there(1, "/a", "/src2"), False),
        (there(1, "/a", "/sr"), False),
        (there(1, "/a", "/other"), False),
    ],
)
def test_files_are_shown_by_a_mount_whose_root_is_at_above_or_below_theirs(
    mount: ObservedMount, *, is_shown: bool
) -> None:
    assert bool(judged(meant(), mounts=(mount,)).refused) == is_shown


@pytest.mark.parametrize("seed", range(20))
def test_what_overlaps_is_found_among_many(seed: int) -> None:
    chance = random.Random(seed)

    def root() -> str:
        return "/" + "/".join(
            chance.choice(["a", "a-", "a.b", "b"]) for _ in range(chance.randrange(4))
        )

    mounts = tuple(there(number, f"/m{number}", root().rstrip("/") or "/") for number in range(8))
    view = View(7, root().rstrip("/") or "/", is_read_only=False)

    def is_below(root: str, top: str) -> bool:
        return f"{root.rstrip('/')}/".startswith(f"{top.rstrip('/')}/")

    tops = [each.root for each in mounts if is_below(view.root, each.root)]
    wanted = {
        each.point
        for each in mounts
        if is_below(view.root, each.root)
        or any(is_below(each.root, top) for top in (view.root, *tops))
    }
    fault = judged(meant(views=(view,)), mounts=mounts).refused.get("v")
    said = fault.message if fault else ""
    assert bool(wanted) == bool(fault)
    assert all(point in said for point in sorted(wanted)[:3])


def test_our_own_raw_mounts_are_out_of_reach() -> None:
    raw = there(1, "/run/mountd/fs/x")
    observed = Observed({raw.id: raw}, {}, tells_idmaps=True, raw=frozenset({raw.id}))
    assert not judge([meant()], [], observed, [], OURS, {}, waits=True).refused


def test_who_has_to_be_asked_about() -> None:
    desired = [
        meant("a", owner=501, user=0),
        meant("b", owner=502),
        meant("c"),
        meant("d", owner=5, user=5),
    ]
    found = asked(desired, [], Observed({}, {}, tells_idmaps=True), OURS)
    assert ({*found.heirs}, {*found.accounts}) == ({501}, {502})


def test_a_chain_of_volumes_shows_what_its_first_one_shows() -> None:
    """Also before they are in place, and in whichever order they are named."""
    last = Unready(
        Volume("z", "/y/src/deep", "/z", nosuid=False), "/z", Fault("pending", "no-source", "late")
    )
    first = meant(
        "y", owner=501, views=(View(7, "/", is_read_only=False),), source="/s", nosuid=True
    )
    assert judged(last, meant(), first).refused.keys() == {"v"}
    elsewhere = last._replace(volume=last.volume._replace(source="/y/other"))
    assert judged(elsewhere, meant(), first).refused, "files can be moved there by the first"
    first = first._replace(volume=first.volume._replace(read_only=True))
    assert not judged(elsewhere, meant(), first).refused


def test_long_chains_and_circles_end() -> None:
    links = [
        Unready(
            Volume(f"c{each}", f"/c{(each + 1) % 3000}", f"/c{each}", nosuid=False),
            f"/c{each}",
            Fault("pending", "no-source", "late"),
        )
        for each in range(3000)
    ]
    assert not judged(meant(), *links, mounts=(there(1, "/a", "/x"),)).refused
    last = meant("c2999", owner=501, source="/s", nosuid=False)
    assert judged(meant(), *links[:-1], last).refused


def entry(mount: ObservedMount, volume: str = "v", owner: int = 0) -> Managed:
    return Managed(mount.id, volume, "/src", f"/{volume}", OURS, Ids(owner, owner), mount.idmap)


def test_what_goes_or_changes_in_this_pass_is_waited_for_unless_all_wait() -> None:
    old = there(5, "/w")
    w = meant("w", owner=501)
    assert judged(meant(), w, mounts=(old,), record=(entry(old, "w"),)).waits == {"v": ("w",)}
    gone = judged(meant(), mounts=(old,), record=(entry(old, "w"),), leaving=(entry(old, "w"),))
    assert gone.waits == {"v": ("/w is taken off",)}
    assert not gone.refused
    hard = judged(
        meant(), mounts=(old,), record=(entry(old, "w"),), leaving=(entry(old, "w"),), waits=False
    )
    assert hard.refused
    done = judged(meant(), w, mounts=(old,), record=(entry(old, "w"),), done={"w": None})
    assert done.refused, "it was to be changed, and wasn't"


def pending(**keys: Any) -> Unready:
    keys = {"user": "1000", **keys}
    return Unready(Volume("v", "/src", "/v", **keys), "/v", Fault("pending", "no-user", "late"))


@pytest.mark.parametrize(
    ("each", "ours", "nobodys", "is_exposed"),
    [
        (pending(), {}, {}, True),
        (pending(owner=Ids(0, 0)), {}, {}, False),
        (pending(idmap=both(0, 1000)), {}, {}, False),
        (pending(user=None), {}, {}, False),
        (pending(), {"flags": NOSUID._replace(read_only=True)}, {}, False),
        (pending(), {"idmap": both(501, 1000)}, {}, False),
        (pending(), {"root": "/other"}, {}, False),
        (pending(user="0"), {"owner": 501, "idmap": both(0, 501)}, {}, True),
        (pending(user="0"), {"owner": 501, "idmap": both(0, 501)}, {501}, False),
        (meant(), {}, {}, True),
    ],
)
def test_a_mount_that_is_there_is_judged_by_what_it_is(
    each: Desired, ours: dict[str, Any], nobodys: set[int], *, is_exposed: bool
) -> None:
    owner = ours.pop("owner", 0) if "owner" in ours else 0
    ours = {"flags": NOSUID, "idmap": both(0, 1000), **ours}
    mount = there(5, "/v", **ours)
    found = judged(
        each, mounts=(mount, there(1, "/a")), record=(entry(mount, owner=owner),),
        nobodys=Nobodys(frozenset(nobodys)),
    )  # fmt: skip
    assert bool(found.exposed) == is_exposed


@pytest.mark.parametrize("shape", [(25, "d" * 200), FARTHEST], ids=["deep", "out of reach"])
def test_a_suid_mount_counts_however_far_down_its_folder_was_moved(
    world: World, fs: Path, shape: tuple[int, str]
) -> None:
    """Whose path is longer than one looks at may show anything."""
    (fs / "src/up").mkdir()
    (world / "suid").mkdir()
    run("mount", "--bind", str(fs / "src/up"), str(world / "suid"))
    run("mount", "-o", "remount,bind,suid", str(world / "suid"))
    there = os.open(fs / "src", os.O_RDONLY)
    with deep(fs / "src", *shape) as here:
        os.rename("up", "up", src_dir_fd=there, dst_dir_fd=here)
    os.close(there)
    world.volumes(v=swapped(world, fs / "src"))
    assert "/mnt/suid" in refused(world.reconcile(status=1))["error"]["message"]
