"""A record that is whole is believed; each mount namespace has one; an odd one is as lost."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from world import MOUNTD, Result, World, mount_id, record_of, run, running

from mountd.core.model import Fault, Ids, Refused
from mountd.core.mounts import Base, Managed
from mountd.kernel.mount_namespace import may_exist
from mountd.reconcile.entries import bases_from, managed_from, to_json


def _volume(world: World, name: str, **keys: Any) -> dict[str, Any]:
    return {"source": world / f"source-{name}", "target": world / name, **keys}


@pytest.fixture
def mounted(world: World) -> World:
    """Volumes `a` and `b` have sources; `a` is mounted."""
    for name in "ab":
        world.folder(f"source-{name}")
    world.volumes(a=_volume(world, "a", user="1000:1000"))
    world.reconcile()
    return world


def _mount_alike(world: World, name: str) -> int:
    """A stranger's mount that looks as the volume's would."""
    (world / name).mkdir(exist_ok=True)
    run("mount", "--bind", str(world / f"source-{name}"), str(world / name))
    run("mount", "-o", "remount,bind,nosuid,nodev", str(world / name))
    return mount_id(world / name)


# whole ----------------------------------------------------------------------------------------


def test_what_a_whole_record_does_not_name_is_foreign_however_it_looks(mounted: World) -> None:
    there = _mount_alike(mounted, "b")
    a, b = _volume(mounted, "a", user="1000:1000"), _volume(mounted, "b")
    mounted.volumes(a=a, b=b)
    assert mounted.reconcile(status=1).volume("b")["reason"] == "foreign-mount"
    mounted.volumes(a=a)
    assert not mounted.reconcile().document["changed"]
    assert mount_id(mounted / "b") == there


def test_it_is_foreign_to_another_manifest_too(mounted: World) -> None:
    _mount_alike(mounted, "b")
    other = World(mounted.path)
    other.manifest = f"{mounted.path}/other.toml"
    other.volumes(b=_volume(mounted, "b"))
    assert other.reconcile(status=1).volume("b")["reason"] == "foreign-mount"


def test_in_place_it_is_the_source_and_stays_when_the_volume_leaves(mounted: World) -> None:
    there = _mount_alike(mounted, "b")
    both = {
        "a": _volume(mounted, "a", user="1000:1000"),
        "b": {"source": mounted / "b", "target": mounted / "b"},
    }
    mounted.volumes(**both)
    assert mounted.reconcile().volume("b")["action"] == "mount"
    del both["b"]
    mounted.volumes(**both)
    mounted.reconcile()
    assert mount_id(mounted / "b") == there


def test_after_a_loss_each_manifest_finds_its_own_again_and_no_more(mounted: World) -> None:
    other = World(mounted.path)
    other.manifest = f"{mounted.path}/other.toml"
    other.volumes(theirs=_volume(mounted, "b"))
    other.reconcile()
    Path(mounted.state, "record.json").unlink()
    for each, name in ((mounted, "a"), (mounted, "a"), (other, "theirs")):
        assert each.reconcile().volume(name)["action"] == "keep"
    assert {each["manifest"] for each in record_of(mounted)} == {mounted.manifest, other.manifest}
    mounted.folder("source-c")
    _mount_alike(mounted, "c")
    for each in (mounted, other):
        each.write(Path(each.manifest).read_text() + f'\n[volumes.c]\nsource = "{mounted}"')
        each.volumes(c=_volume(mounted, "c"))
        assert each.reconcile(status=1).volume("c")["reason"] == "foreign-mount"


def test_after_a_loss_what_is_pending_is_adopted_once_it_can_be_looked_at(mounted: World) -> None:
    rootfs = mounted.rootfs("node:x:1000:1000::/:/bin/sh\n")
    mounted.volumes(a=_volume(mounted, "a", user="node", accounts=rootfs))
    mounted.reconcile()
    there = mount_id(mounted / "a")
    mounted.rootfs("")
    Path(mounted.state, "record.json").write_text("{")
    assert mounted.reconcile(status=1).volume("a")["reason"] == "no-user"
    mounted.rootfs("node:x:1000:1000::/:/bin/sh\n")
    assert mounted.reconcile().volume("a")["action"] == "keep"
    assert mount_id(mounted / "a") == there
    assert json.loads(Path(mounted.state, "record.json").read_text())["unsettled"] != {}


@pytest.mark.parametrize("source", ["source-b", "a"], ids=["elsewhere", "in place"])
def test_another_manifests_mount_at_the_target_is_named(mounted: World, source: str) -> None:
    there = mount_id(mounted / "a")
    other = World(mounted.path)
    other.manifest = f"{mounted.path}/other.toml"
    for user in ("1000:1000", "1001:1001"):
        table = {"source": mounted / source, "target": mounted / "a", "user": user}
        other.volumes(theirs=table)
        volume = other.reconcile(status=1).volume("theirs")
        assert (volume["state"], volume["reason"]) == ("conflict", "foreign-mount")
        assert "`a`" in volume["error"]["message"]
        assert mounted.manifest in volume["error"]["message"]
    assert mount_id(mounted / "a") == there
    assert not mounted.reconcile().document["changed"]


# one for each namespace -----------------------------------------------------------------------


@contextmanager
def _namespace(propagation: str = "private") -> Iterator[list[str]]:
    """Words that run something in a mount namespace of its own, as long as this lasts."""
    with running("unshare", "-m", "--propagation", propagation, "sh", "-c", "echo; read _") as it:
        yield ["nsenter", "-m", "-t", str(it.pid), "--wd=/"]


def _reconcile_there(world: World, there: list[str], *more: str) -> Result:
    words = [MOUNTD, "reconcile", "--json", *more, "--manifest", world.manifest]
    return world.run([*there, *words, "--state-dir", world.state])


def test_a_pass_in_another_namespace_has_a_record_of_its_own(mounted: World) -> None:
    both = {
        "a": _volume(mounted, "a", user="1000:1000"),
        "b": _volume(mounted, "b", user="1000:1000"),
    }
    mounted.volumes(**both)
    mounted.reconcile()
    before = Path(mounted.state, "record.json").read_bytes()
    with _namespace() as there:
        assert not _reconcile_there(mounted, there).document["changed"]
        assert Path(mounted.state, "record.json").read_bytes() == before
        del both["b"]
        mounted.volumes(**both)
        assert mounted.reconcile().volume("b")["action"] == "unmount"
        assert [each.point for each in mounted.mounts()] == [str(mounted / "a")]
        left = _reconcile_there(mounted, there)
        assert left.volume("b")["action"] == "unmount"
        assert not _reconcile_there(mounted, there).document["changed"]


@pytest.mark.fault(43, "copies in another namespace")
def test_what_comes_there_by_propagation_is_no_strangers(shared_world: World) -> None:
    world = shared_world
    world.folder("source-a")
    world.volumes(a=_volume(world, "a", user="1000:1000"))
    with _namespace("slave") as there:
        for user in ("1000:1000", "1001:1001"):
            world.volumes(a=_volume(world, "a", user=user))
            world.reconcile()
            assert not _reconcile_there(world, there).document["changed"]
            assert _reconcile_there(world, there).status == 0


_REUSED = "each time what runs beside this test was given the namespace's number"


def _see_reused(number: str) -> bool:
    """What runs beside a test may be given the number of its namespace: then a record stays.

    It always does in a pid namespace, where not all who may be in it can be seen: False.
    """
    assert may_exist(f"mnt:[{number}]")
    return may_exist("mnt:[1]") is False


def test_the_record_of_a_namespace_that_is_gone_goes_with_the_next_write(mounted: World) -> None:
    for _ in range(20):
        with _namespace() as there:
            _reconcile_there(mounted, there)
            (theirs,) = Path(mounted.state).glob("record-*.json")
            mounted.volumes(b=_volume(mounted, "b"))
            mounted.reconcile()
            assert theirs.exists()
        mounted.reconcile()  # with nothing to do, nothing is written
        mounted.volumes(a=_volume(mounted, "a"))
        mounted.reconcile()
        if not theirs.exists():
            return
        if not _see_reused(theirs.stem.removeprefix("record-")):
            return
        theirs.unlink()
    pytest.fail(_REUSED)


def test_where_the_first_namespace_is_gone_the_next_one_takes_its_file(world: World) -> None:
    world.folder("source-a")
    world.volumes(a=_volume(world, "a"))
    for _ in range(20):
        with _namespace() as there:
            _reconcile_there(world, there)
            first = json.loads(Path(world.state, "record.json").read_text())["namespace"]
        world.reconcile()
        if not (others := [*Path(world.state).glob("record-*.json")]):
            assert [each["target"] for each in record_of(world)] == [str(world / "a")]
            return
        if not _see_reused(first.removeprefix("mnt:[").removesuffix("]")):
            return
        world.mountd("unmount", "--all")
        for each in (*others, Path(world.state, "record.json")):
            each.unlink(missing_ok=True)
    pytest.fail(_REUSED)


# odd ------------------------------------------------------------------------------------------

_MOUNT = Managed(
    1 << 33, "v", "/s", "/t", "/etc/mountd.toml", Ids(501, 20), None, "", (5,),
    Refused(None, Fault("failed", "filesystem-refuses", "no", None, 22)), 7, "/",
)  # fmt: skip
_ODD: dict[str, list[Any]] = {
    "id": [-1, 0, 1 << 63, 1 << 80, 1.5, "12", True, None, [1]],
    "volume": [1, None, "a\0b", "\ud800"],
    "source": [1, "a\0b"],
    "target": ["", "x", "../x", "/a/../b", "/a//b", "/a/", "/a\0b", "/\ud800", [1], 1],
    "manifest": [None, 7],
    "owner": [[1], [1, 2, 3], "12", [-1, 0], [1 << 32, 0], ["1", "2"], None],
    "submounts": [[-1], [1 << 70], "123", None, [[]]],
    "idmap": [["x", "y"], ["", ""], ["0 0 1\n"], ["0 0 1\n", "0 0 1\n", ""], 7, ["0 0 -1\n"] * 2],
    "filesystem": ["../../t", "a/b", "\0", 7, None, "a" * 5000],
    "refused": [[1], {"idmap": None}, {"idmap": None, "state": "x", "code": "io"}, 7],
    "device": [-1, 1 << 70, "7"],
    "root": [1, None, "a\0b"],
}


def test_an_entry_is_read_as_it_was_written() -> None:
    text = json.loads(f"[{to_json(_MOUNT)}]")
    assert managed_from(text) == {_MOUNT.id: _MOUNT}
    odd_name = _MOUNT._replace(target="/\udcff")  # a byte that is no text
    assert managed_from(json.loads(f"[{to_json(odd_name)}]")) == {_MOUNT.id: odd_name}


@pytest.mark.parametrize("field", _ODD)
def test_an_entry_with_an_odd_value_is_none(field: str) -> None:
    good = json.loads(to_json(_MOUNT))
    for value in _ODD[field]:
        with pytest.raises((ValueError, LookupError, TypeError)):
            managed_from([{**good, field: value}])
    del good[field]
    with pytest.raises((ValueError, LookupError, TypeError)):
        managed_from([good])


def test_a_mount_that_is_in_it_twice_or_no_list_makes_it_odd() -> None:
    good = json.loads(to_json(_MOUNT))
    odd: list[Any] = [[good, good], {"a": good}, None, "abc", [[]], [None]]
    for values in odd:
        with pytest.raises((ValueError, LookupError, TypeError)):
            managed_from(values)


@pytest.mark.parametrize("name", ["../../t", "a/b/c", "", "a\0b", "a" * 5000, "\udcff", "A" * 32])
def test_a_filesystem_whose_name_is_not_of_our_making_makes_it_odd(name: str) -> None:
    fields = {"id": 5, "type": "tmpfs", "source": "scratch"}
    assert bases_from({"a" * 32: fields}) == {"a" * 32: Base(5, "a" * 32, "tmpfs", "scratch")}
    assert bases_from({"a" * 32: 5}) == {"a" * 32: Base(5, "a" * 32)}  # as an older mountd has it
    with pytest.raises(ValueError, match="filesystem's name"):
        bases_from({name: 5})


_ODD_FILES: dict[str, dict[str, Any]] = {
    "a negative base": {"filesystems": {"a" * 32: -1}},
    "a base beyond 64 bits": {"filesystems": {"a" * 32: 1 << 70}},
    "no mounts": {"mounts": None},
    "nan": {"partial": float("nan"), "namespace_id": float("nan")},
    "a number that has no end": {"version": 10**4000},
    "odd targets": {"unsettled": {"/m": ["../x"]}},
}


@pytest.mark.parametrize("odd", _ODD_FILES)
def test_an_odd_record_is_kept_aside_and_nothing_is_mounted_twice_or_taken_off(
    mounted: World, odd: str
) -> None:
    there, file = mount_id(mounted / "a"), Path(mounted.state, "record.json")
    text = json.dumps({**json.loads(file.read_text()), **_ODD_FILES[odd]})
    for words in (("status",), ("reconcile", "-n"), ("unmount", "--all"), ("reconcile",)):
        file.write_text(text)
        done = mounted.mountd(*words)
        assert done.status == 0, done
        assert "can't be read" in done.err
    assert Path(f"{file}.damaged").read_text() == text
    assert [each["id"] for each in record_of(mounted)] == [there]
    assert [each.point for each in mounted.mounts()] == [str(mounted / "a")]
    assert os.listdir(mounted.state).count("record.json.new") == 0
