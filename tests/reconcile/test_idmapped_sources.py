"""Sources whose own mount is idmapped, and single files, which editors replace."""

import os
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from world import World, disks, mount_idmapped, owner, record_of, run

# 501 and 20 are seen as 600 and 601, and so on; the owner of `hello` is another than the root's
MAP = ((0, 0, 10), (501, 600, 1), (20, 601, 1), (1000, 1001, 10), (600, 700, 1), (601, 701, 1))
OLD = pytest.mark.parametrize("kernel", [DEBIAN_13, DEBIAN_12], ids=lambda it: it.name)
BOTH = pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["ours", "debian-12"])
KERNELS = pytest.mark.parametrize(
    "kernel", [None, DEBIAN_13, DEBIAN_12], ids=["ours", "debian-13", "debian-12"]
)
SEEN = {0: 0, 501: 600, 20: 601, 1000: 1001, 1001: 1002, 600: 700, 601: 701, 77: 65534}
"""As what ids are seen through the source's own mount."""


def source(world: World, *extents: tuple[int, int, int]) -> Path:
    """A folder of 501's, seen through an idmapped mount; `below` is where it is stored."""
    below = world.folder("below")
    for each in SEEN:
        (below / str(each)).touch()
        os.chown(below / str(each), each, each)
    mount_idmapped(below, world / "source", *(extents or MAP))
    return world / "source"


def volume(world: World, **keys: Any) -> Path:
    base = {"source": world / "source", "target": world / "work", "user": "1000:1000"}
    world.volumes(work={**base, **keys})
    return world / "work"


def points(world: World) -> list[str]:
    return [each.point for each in world.mounts() if each.point != str(world / "source")]


def test_the_owner_as_seen_and_the_user_are_exchanged_over_the_sources_map(world: World) -> None:
    """Both ways, for several ids: what the source's mount shows, with these two exchanged."""
    source(world)
    target = volume(world)
    world.reconcile()
    uids, gids = {600: 1000, 1000: 600}, {601: 1000, 1000: 601}
    assert owner(target) == (1000, 1000)
    for stored, seen in SEEN.items():
        wanted = (uids.get(seen, seen), gids.get(seen, seen))
        assert owner(target / str(stored)) == wanted, stored
    (world / "below").chmod(0o777)
    for uid, at_source in ((1000, (501, 20)), (1001, (1000, 1000)), (0, (0, 0))):
        assert world.as_user(uid, "touch", str(target / f"by-{uid}")).status == 0
        assert owner(world / f"below/by-{uid}") == at_source
        assert owner(target / f"by-{uid}") == (uid, uid)
    assert not world.reconcile().document["changed"]
    assert world.mountd("status").status == 0


def test_who_has_no_id_below_the_map_writes_nothing(world: World) -> None:
    """600 is seen as 1000 was: as nobody, for no stored id is seen as 1000."""
    source(world)
    target = volume(world)
    (world / "below").chmod(0o777)
    world.reconcile()
    made = world.as_user(600, "touch", str(target / "made"))
    assert made.status != 0
    assert not (world / "below/made").exists()


@KERNELS
def test_auto_compares_the_owner_as_seen(world: World, kernel: Kernel | None) -> None:
    source(world)
    target = volume(world, user="600:601")
    found = world.reconcile(kernel=kernel).volume("work")
    assert (found["state"], found["fallback"], found["reason"]) == ("mounted", None, None)
    assert owner(target) == (600, 601)
    assert owner(target / "1000") == (1001, 1001)
    assert not world.reconcile(kernel=kernel).document["changed"]


@KERNELS
@pytest.mark.parametrize("keys", [{}, {"user": "1000:1000", "idmap": "never"}])
def test_without_a_user_the_sources_map_is_kept(
    world: World, kernel: Kernel | None, keys: dict[str, str]
) -> None:
    source(world)
    world.volumes(
        work={"source": world / "source", "target": world / "work", "fallback": "fail", **keys}
    )
    found = world.reconcile(kernel=kernel).volume("work")
    assert (found["state"], found["reason"]) == ("mounted", None)
    for stored, seen in SEEN.items():
        assert owner(world / "work" / str(stored)) == (seen, seen)
    again = world.reconcile(kernel=kernel)
    assert (again.document["changed"], again.volume("work")["drift"]) == (False, [])
    Path(world.state, "record.json").unlink()
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "keep"


def test_extents_are_as_stored_and_not_composed(world: World) -> None:
    source(world)
    ids = [{"stored": 501, "seen": 1000, "count": 1}, {"stored": 0, "seen": 0, "count": 21}]
    world.volumes(
        work={
            "source": world / "source",
            "target": world / "work",
            "idmap": {"uids": ids, "gids": ids},
        }
    )
    world.reconcile()
    assert owner(world / "work") == (1000, 20)
    assert owner(world / "work/0") == (0, 0)
    assert owner(world / "work/1000") == (65534, 65534)
    assert not world.reconcile().document["changed"]


def test_a_written_owner_is_as_stored_and_not_composed(world: World) -> None:
    source(world)
    target = volume(world, owner="501:20")
    world.reconcile()
    assert owner(target) == (1000, 1000)
    assert owner(target / "1000") == (501, 20)
    assert owner(target / "1001") == (1001, 1001)
    assert world.as_user(1000, "touch", str(target / "made")).status == 0
    assert owner(world / "below/made") == (501, 20)
    volume(world, owner="1000:1000", user="1001:1001")
    assert world.reconcile().volume("work")["action"] in ("keep", "replace")
    assert owner(target / "1000") == (1001, 1001), "auto compares it as it is seen, by rule 7"


def test_always_is_the_sources_map_where_there_is_nothing_to_exchange(world: World) -> None:
    source(world)
    target = volume(world, user="600:601", idmap="always")
    world.reconcile()
    for stored, seen in SEEN.items():
        assert owner(target / str(stored)) == (seen, seen)
    assert not world.reconcile().document["changed"]


def test_status_tells_the_owner_as_stored(world: World) -> None:
    source(world)
    volume(world)
    world.reconcile()
    assert "501:20→1000:1000" in world.mountd("status").out
    idmap = world.mountd("status", "--json").volume("work")["idmap"]
    assert {"stored": 501, "seen": 1000, "count": 1} in idmap["uids"]
    assert {"stored": 20, "seen": 1000, "count": 1} in idmap["gids"]
    assert record_of(world)[0]["owner"] == [501, 20]


@pytest.mark.parametrize("user", ["1000:1000", None])
def test_a_source_that_gets_another_map_is_followed(world: World, user: str | None) -> None:
    source(world)
    keys = {"user": user} if user else {"idmap": "never"}
    target = volume(world, **keys)
    world.reconcile()
    run("umount", str(world / "source"))
    mount_idmapped(world / "below", world / "source", (0, 0, 10), (501, 800, 1), (20, 801, 1))
    drift = world.mountd("status", "--json")
    assert drift.status == 1
    assert [each["field"] for each in drift.volume("work")["drift"]] == ["idmap"]
    assert world.reconcile().volume("work")["action"] == "replace"
    assert owner(target) == ((1000, 1000) if user else (800, 801))
    assert owner(target / "1000") == (65534, 65534)
    run("umount", str(world / "source"))
    run("mount", "--bind", str(world / "below"), str(world / "source"))
    assert world.reconcile().volume("work")["action"] == "replace"
    assert owner(target) == ((1000, 1000) if user else (501, 20))
    assert owner(target / "1001") == (1001, 1001)
    assert points(world) == [str(target)]
    assert not world.reconcile().document["changed"]


@OLD
def test_where_it_cannot_be_composed_that_is_the_reason(world: World, kernel: Kernel) -> None:
    source(world)
    target = volume(world)
    for words in (["-n"], [], []):
        result = world.reconcile(*words, kernel=kernel)
        found = result.volume("work")
        assert (found["fallback"], found["reason"]) == ("plain", "source-is-idmapped")
        assert found["error"] is None
        if not words:
            assert "is idmapped already" in result.err
            assert "6.15" in result.err
            assert "hint: " in result.err
            assert owner(target) == (600, 601), "the source's own map stays"
    assert not result.document["changed"]
    assert world.mountd("status", kernel=kernel).status == 0
    volume(world, fallback="fail")
    found = world.reconcile(kernel=kernel, status=1).volume("work")
    assert (found["state"], found["reason"]) == ("failed", "source-is-idmapped")
    assert points(world) == [str(target)], "the old state is kept"
    assert owner(target) == (600, 601)
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    world.reconcile(kernel=kernel, status=1)
    assert points(world) == []


@OLD
def test_what_the_hint_says_works(world: World, kernel: Kernel) -> None:
    source(world)
    target = volume(world)
    world.reconcile(kernel=kernel)
    volume(world, source=world / "below")
    found = world.reconcile(kernel=kernel).volume("work")
    assert (found["action"], found["fallback"]) == ("replace", None)
    assert owner(target) == (1000, 1000)
    volume(world)
    found = world.reconcile(kernel=kernel).volume("work")
    assert (found["action"], found["fallback"]) == ("replace", "plain")
    assert owner(target) == (600, 601)
    assert points(world) == [str(target)]


@OLD
def test_extents_over_an_idmapped_source_are_the_same_reason(world: World, kernel: Kernel) -> None:
    source(world)
    ids = [{"stored": 501, "seen": 1000, "count": 1}]
    keys = {"source": world / "source", "target": world / "work"}
    world.volumes(work={**keys, "idmap": {"uids": ids, "gids": ids}})
    found = world.reconcile(kernel=kernel).volume("work")
    assert (found["fallback"], found["reason"]) == ("plain", "source-is-idmapped")
    assert owner(world / "work") == (600, 601)


@OLD
def test_two_sources_of_one_filesystem_are_told_apart(world: World, kernel: Kernel) -> None:
    """One is reached through an idmapped mount, the other is not."""
    source(world)
    base = {"user": "1000:1000"}
    one = {**base, "source": world / "source", "target": world / "one"}
    two = {**base, "source": world / "below", "target": world / "two"}
    for tables in ({"one": one, "two": two}, {"two": two, "one": one}):
        world.volumes(**tables)
        found = world.reconcile(kernel=kernel)
        assert found.volume("one")["fallback"] == "plain"
        assert found.volume("two")["fallback"] is None
        assert (owner(world / "one"), owner(world / "two")) == ((600, 601), (1000, 1000))
        world.mountd("unmount", "--all", kernel=kernel)


def test_an_owner_that_the_sources_map_leaves_out_is_not_given_to_the_user(world: World) -> None:
    source(world, (0, 0, 10), (1000, 1000, 1))
    target = volume(world)
    world.mountd("reconcile", "--json")
    if str(target) in points(world):
        assert owner(target) == (65534, 65534)
    assert owner(world / "below") == (501, 20)


def test_a_mount_of_ours_is_a_source_like_that(world: World) -> None:
    """The second volume's source lies at the first one's target."""
    world.folder("below")
    one = {"source": world / "below", "target": world / "one", "user": "1000:1000"}
    two = {"source": world / "one", "target": world / "two", "user": "1002:1002"}
    world.volumes(two=two, one=one)
    world.reconcile()
    assert (owner(world / "one"), owner(world / "two")) == ((1000, 1000), (1002, 1002))
    assert not world.reconcile().document["changed"]
    world.volumes(two=two, one={**one, "user": "1003:1003"})
    world.reconcile()
    assert (owner(world / "one"), owner(world / "two")) == ((1003, 1003), (1002, 1002))
    assert world.as_user(1002, "touch", str(world / "two/made")).status == 0
    assert owner(world / "below/made") == (501, 20)
    assert not world.reconcile().document["changed"]


# Single files


def save(path: Path, text: str) -> None:
    """As most editors do it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.chown(new, 501, 20)
    new.rename(path)


@pytest.mark.fault(24, "again and again, idmapped")
@BOTH
def test_a_file_saved_by_rename_is_drift_and_followed(world: World, kernel: Kernel | None) -> None:
    file = world / "file"
    save(file, "one\n")
    target = volume(world, source=file)
    world.reconcile(kernel=kernel)
    for text in ("two\n", "three\n"):
        before = target.read_text()
        save(file, text)
        assert target.read_text() == before, "the kernel goes on showing the old one"
        status = world.mountd("status", "--json", kernel=kernel)
        assert status.status == 1
        assert [each["field"] for each in status.volume("work")["drift"]] == ["source"]
        assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
        assert (target.read_text(), owner(target)) == (text, (1000, 1000))
        assert points(world) == [str(target)]
        assert len(record_of(world)) == 1
        assert world.mountd("status", kernel=kernel).status == 0
    file.write_text("in place\n")
    assert not world.reconcile(kernel=kernel).document["changed"]
    assert target.read_text() == "in place\n"
    assert world.mountd("unmount", "work", kernel=kernel).status == 0
    assert points(world) == []
    assert target.read_text() == "", "what was made for it stays"


@BOTH
def test_a_file_that_is_away_for_a_while_keeps_its_mount(
    world: World, kernel: Kernel | None
) -> None:
    file = world / "file"
    save(file, "one\n")
    target = volume(world, source=file)
    world.reconcile(kernel=kernel)
    file.unlink()
    found = world.reconcile(kernel=kernel, status=1).volume("work")
    assert (found["state"], found["reason"]) == ("pending", "no-source")
    assert target.read_text() == "one\n"
    save(file, "two\n")
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
    assert target.read_text() == "two\n"
    assert points(world) == [str(target)]


@BOTH
def test_a_saved_file_whose_record_is_lost_is_a_conflict(
    world: World, kernel: Kernel | None
) -> None:
    file = world / "file"
    save(file, "one\n")
    target = volume(world, source=file)
    world.reconcile(kernel=kernel)
    save(file, "two\n")
    Path(world.state, "record.json").unlink()
    found = world.reconcile(kernel=kernel, status=1).volume("work")
    assert (found["state"], found["reason"]) == ("conflict", "foreign-mount")
    assert target.read_text() == "one\n"


def test_a_file_that_was_saved_and_then_left_the_manifest_goes(world: World) -> None:
    file = world / "file"
    save(file, "one\n")
    volume(world, source=file)
    world.reconcile()
    save(file, "two\n")
    world.write("version = 1")
    world.reconcile()
    assert points(world) == []


def test_a_file_that_became_a_folder_is_of_the_wrong_kind(world: World) -> None:
    file = world / "file"
    save(file, "one\n")
    target = volume(world, source=file)
    world.reconcile()
    file.unlink()
    file.mkdir()
    found = world.reconcile(status=1).volume("work")
    assert (found["state"], found["reason"]) == ("failed", "wrong-kind")
    assert target.read_text() == "one\n"


@pytest.mark.needs_loop
def test_a_file_saved_in_a_filesystem_volume_is_followed(world: World) -> None:
    with disks(world) as disk:
        device = disk("ext4")
        (world / "root").mkdir()
        run("mount", "-t", "ext4", device, str(world / "root"))
        (world / "root/conf").mkdir()
        file = world / "root/conf/file"
        save(file, "one\n")
        keys = {"type": "ext4", "source": device, "subdir": "conf/file"}
        target = volume(world, **keys)
        assert world.reconcile().volume("work")["action"] == "mount"
        assert (target.read_text(), owner(target)) == ("one\n", (1000, 1000))
        save(file, "two\n")
        assert world.mountd("status").status == 1
        found = world.reconcile().volume("work")
        assert (found["action"], [each["field"] for each in found["drift"]]) == (
            "replace",
            ["source"],
        )
        assert (target.read_text(), owner(target)) == ("two\n", (1000, 1000))
        assert not world.reconcile().document["changed"]
        assert [each.point for each in world.mounts()].count(str(target)) == 1
        assert world.mountd("unmount", "--all").status == 0
        run("umount", str(world / "root"))
