"""Sources that are automounts, or have some below them: real ones, with a daemon in the test."""

import json
import os
from pathlib import Path

import pytest
from automounter import automount
from old_kernel import DEBIAN_13
from volumes import NODE, is_mounted, table
from world import World, mount_table, owner, record_of, run

GUEST = "1000:1000"


@pytest.mark.parametrize("words", [("reconcile",), ("status",), ("reconcile", "-n")])
def test_an_automount_is_triggered_and_what_it_mounts_is_the_source(
    world: World, words: tuple[str, ...]
) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/auto", "target": "$/t", "user": GUEST})
        volume = world.mountd(*words, "--json").volume("a")
        assert auto.is_awake
        assert not volume["error"]
        assert not volume["notes"] or volume["notes"] == ["makes /mnt/t"]
        world.reconcile()
        assert owner(world / "t/hello") == NODE


@pytest.mark.parametrize("source", ["auto", "auto/sub"])
@pytest.mark.parametrize("keys", [{"user": GUEST}, {}, {"recursive": True, "user": GUEST}])
def test_what_is_mounted_stays_so_when_the_share_idles_out(
    world: World, source: str, keys: dict[str, object]
) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": f"$/{source}", "target": "$/t", **keys})
        world.reconcile()
        auto.expire()
        before, asked = mount_table(), auto.asked
        for words in (("status",), ("reconcile", "-n"), ("check",), ("reconcile",)):
            result = world.mountd(*words, "--json")
            assert result.status == 0, (words, result)
            assert result.volume("a")["state"] == "mounted", words
            assert not result.volume("a")["drift"], words
            assert not result.document["changed"], words
        assert "nothing to do" in world.mountd("reconcile").out
        assert mount_table() <= before
        assert auto.asked == asked  # or it would never come to its rest
        assert (world / "t/hello").read_text() == "hello\n"


@pytest.mark.parametrize("mood", ["refuse", "fall_silent"])
def test_what_is_mounted_doesnt_depend_on_the_daemon_any_more(world: World, mood: str) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/auto", "target": "$/t", "user": GUEST})
        world.reconcile()
        auto.expire()
        getattr(auto, mood)()
        for words in (("status",), ("reconcile",)):
            assert world.mountd(*words, "--json").volume("a")["state"] == "mounted"
        assert world.mountd("unmount", "--all").status == 0
        assert not is_there(world / "t")


def is_there(path: Path) -> bool:
    return (path / "hello").exists()


def test_an_edit_while_the_share_sleeps_wakes_it(world: World) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/auto", "target": "$/t", "user": GUEST})
        world.reconcile()
        auto.expire()
        world.volumes(a={"source": "$/auto", "target": "$/t", "user": "1001:1001"})
        world.reconcile()
        assert auto.is_awake
        assert owner(world / "t/hello") == (1001, 1001)
        auto.expire()
        world.volumes(
            a={"source": "$/auto", "target": "$/t", "user": "1001:1001", "read_only": True}
        )
        world.reconcile()
        assert os.statvfs(world / "t").f_flag & os.ST_RDONLY
        assert len([each for each in world.mounts() if each.point == f"{world.path}/t"]) == 1


def test_what_the_automount_mounts_next_may_be_another(world: World) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/auto", "target": "$/t", "user": GUEST})
        world.reconcile()
        auto.expire()
        (world / "auto/hello").write_text("anew\n")  # which wakes it
        assert world.reconcile().volume("a")["action"] == "replace"
        assert (world / "t/hello").read_text() == "anew\n"


def test_one_that_refuses_fails_its_volume_and_leaves_the_target(world: World) -> None:
    (world / "t").mkdir()
    (world / "t/old").write_text("precious")
    with automount(world / "auto") as auto:
        auto.refuse()
        for source in ("auto", "auto/sub"):
            world.volumes(a={"source": f"$/{source}", "target": "$/t", "user": GUEST})
            before = table(world)
            said = [
                world.mountd(*words, "--json").volume("a")["error"]
                for words in (("reconcile", "-n"), ("status",), ("reconcile",))
            ]
            assert said[0] == said[1] == said[2]
            assert said[0]["code"] == "mount-refused"
            assert "the automount (autofs) at /mnt/auto mounts nothing" in said[0]["message"]
            assert "No such file or directory" in said[0]["message"]
            assert "systemctl status /mnt/auto" in said[0]["hint"]
            assert table(world) == before
            assert (world / "t/old").read_text() == "precious"
        auto.recover()
        world.reconcile()
        assert owner(world / "t/hello") == NODE


def test_one_that_is_silent_costs_its_own_volume(world: World) -> None:
    world.folder("source")
    with automount(world / "auto") as auto:
        auto.fall_silent()
        world.volumes(
            a={"source": "$/auto", "target": "$/t", "user": GUEST},
            b={"source": "$/source", "target": "$/b", "user": GUEST},
        )
        for words in (("reconcile", "-n"), ("status",), ("check",), ("reconcile",)):
            result = world.mountd(*words, "--json")
            assert result.volume("a")["reason"] == "not-answering", words
            assert "/mnt/auto" in result.volume("a")["error"]["message"]
        assert is_mounted(world / "b")
        auto.recover()


def test_the_folders_of_an_indirect_map_are_sources(world: World) -> None:
    with automount(world / "net", "indirect") as auto:
        world.volumes(
            a={"source": "$/net/host", "target": "$/a", "user": GUEST},
            b={"source": "$/net/other/sub", "target": "$/b", "user": GUEST},
        )
        world.reconcile()
        assert is_mounted(world / "a")
        assert is_mounted(world / "b")
        for each in ("host", "other"):
            run("umount", str(world / "net" / each))
        asked = auto.asked
        assert world.mountd("status").status == 0
        assert not world.reconcile().document["changed"]
        assert auto.asked == asked
        world.volumes(a={"source": "$/net", "target": "$/a", "user": GUEST})
        message = world.reconcile(status=1).volume("a")["error"]["message"]
        assert message == "nothing is mounted on the automount (autofs) at /mnt/net"
        auto.refuse()
        world.volumes(a={"source": "$/net/away/x", "target": "$/a", "user": GUEST})
        message = world.reconcile(status=1).volume("a")["error"]["message"]
        assert "at /mnt/net mounts nothing for /mnt/net/away/x" in message


def test_one_below_a_recursive_source_comes_along(world: World) -> None:
    world.folder("s")
    with automount(world / "s/net") as auto:
        world.volumes(a={"source": "$/s", "target": "$/t", "recursive": True})
        dry = world.reconcile("-n").volume("a")
        volume = world.reconcile().volume("a")
        assert (dry["action"], dry["notes"]) == (volume["action"], volume["notes"])
        assert (world / "t/net/hello").read_text() == "hello\n"
        asked = auto.asked
        auto.expire()
        for words in (("status",), ("check",), ("reconcile",)):
            volume = world.mountd(*words, "--json").volume("a")
            assert (volume["state"], volume["drift"], volume["notes"]) == ("mounted", [], [])
        assert auto.asked == asked
        assert (world / "t/net/hello").read_text() == "hello\n"
        world.volumes(a={"source": "$/s", "target": "$/t", "recursive": True, "read_only": True})
        world.reconcile()
        assert os.statvfs(world / "t/net").f_flag & os.ST_RDONLY
        assert (world / "t/net/hello").read_text() == "hello\n"
        assert world.mountd("unmount", "--all").status == 0
        assert not is_there(world / "t")


def test_what_one_below_a_recursive_source_mounts_is_idmapped_without_it(world: World) -> None:
    world.folder("s")
    (world / "s/other").mkdir()
    run("mount", "-t", "tmpfs", "-o", "uid=501,gid=20", "tmpfs", str(world / "s/other"))
    with automount(world / "s/net") as auto:
        table = {"source": "$/s", "target": "$/t", "recursive": True, "user": GUEST}
        world.volumes(a={**table, "read_only": True, "idmap": "always"})
        dry = world.reconcile("-n").volume("a")
        volume = world.reconcile().volume("a")
        assert (dry["idmap"], dry["notes"]) == (volume["idmap"], volume["notes"])
        for each in ("hello", "other", "net/hello", "net/sub/hello"):
            assert owner(world / "t" / each) == NODE
        points = [each for each in world.mounts() if each.point.startswith("/mnt/t")]
        assert sorted(each.point for each in points) == ["/mnt/t", "/mnt/t/net", "/mnt/t/other"]
        assert all("ro" in each.options for each in points)
        assert not world.reconcile().document["changed"]
        auto.expire()
        asked = auto.asked
        for words in (("status",), ("check",), ("reconcile",)):
            volume = world.mountd(*words, "--json").volume("a")
            assert (volume["state"], volume["drift"]) == ("mounted", []), words
        assert auto.asked == asked
        world.volumes(a=table)
        world.reconcile()
        assert owner(world / "t/net/hello") == NODE
        assert not os.statvfs(world / "t/net").f_flag & os.ST_RDONLY
        assert world.mountd("unmount", "--all").status == 0
        assert not [each for each in world.mounts() if each.point.startswith("/mnt/t")]


def test_before_linux_6_15_one_below_a_recursive_source_is_why_there_are_raw_ids(
    world: World,
) -> None:
    world.folder("s")
    table = {"source": "$/s", "target": "$/t", "recursive": True, "user": GUEST}
    with automount(world / "s/net"):
        world.volumes(a=table)
        for words in (("reconcile", "-n"), ("status",), ("reconcile",)):
            result = world.mountd(*words, "--json", kernel=DEBIAN_13)
            refused = result.volume("a")["refused"]
            assert refused["code"] == "filesystem-refuses", words
            assert "the automount (autofs) at /mnt/s/net" in refused["message"], words
        assert owner(world / "t/hello") == (501, 20)
        assert is_there(world / "t/net")
        assert not world.reconcile(kernel=DEBIAN_13).document["changed"]
        assert world.mountd("unmount", "--all", kernel=DEBIAN_13).status == 0
        world.volumes(a={**table, "fallback": "fail"})
        for words in (("reconcile", "-n"), ("status",), ("check",), ("reconcile",)):
            error = world.mountd(*words, "--json", kernel=DEBIAN_13).volume("a")["error"]
            assert "the automount (autofs) at /mnt/s/net" in error["message"], words
        assert not is_there(world / "t")


def test_one_below_a_recursive_source_that_refuses_is_left_as_it_is(world: World) -> None:
    world.folder("s")
    with automount(world / "s/net") as auto:
        auto.refuse()
        world.volumes(a={"source": "$/s", "target": "$/t", "recursive": True})
        dry = world.reconcile("-n").volume("a")
        volume = world.reconcile().volume("a")
        assert dry["notes"] == volume["notes"]
        assert any("without what belongs at /mnt/t/net" in each for each in dry["notes"])
        assert is_there(world / "t")
        assert not world.reconcile().document["changed"]
        assert world.mountd("status").status == 0
        assert world.mountd("unmount", "--all").status == 0
        assert not is_there(world / "t")


def test_one_below_a_recursive_source_that_is_silent_is_foreseen(world: World) -> None:
    world.folder("s")
    with automount(world / "s/net") as auto:
        auto.fall_silent()
        world.volumes(a={"source": "$/s", "target": "$/t", "recursive": True})
        for words in (("reconcile", "-n"), ("status",), ("check",), ("reconcile",)):
            assert world.mountd(*words, "--json").volume("a")["reason"] == "not-answering", words
        assert not is_there(world / "t")
        auto.recover()
        world.reconcile()
        assert is_there(world / "t/net")


def test_accounts_in_what_an_automount_mounts(world: World) -> None:
    world.folder("source")
    with automount(world / "auto"):
        world.volumes(
            a={"source": "$/source", "target": "$/t", "user": "node", "accounts": "$/auto"}
        )
        message = world.reconcile(status=1).volume("a")["error"]["message"]
        assert "/mnt/auto/etc/passwd" in message
        (world / "auto/etc").mkdir()
        (world / "auto/etc/passwd").write_text("node:x:1000:1000::/:/bin/sh\n")
        world.reconcile()
        assert owner(world / "t/hello") == NODE


def test_a_copy_of_an_automount_is_no_source_and_its_hint_says_why(world: World) -> None:
    """As in a mount namespace to which nothing propagates."""
    world.folder("t")
    with automount(world / "auto") as auto:
        auto.copy(world / "copy")
        before = table(world)
        world.volumes(a={"source": "$/copy", "target": "$/t", "user": GUEST})
        dry = world.reconcile("-n", status=1).volume("a")["error"]
        error = world.reconcile(status=1).volume("a")["error"]
        assert dry == error
        assert "/mnt/copy is a copy of an automount (autofs)" in error["message"]
        assert "name the original as the source" in error["hint"]
        auto.expire()
        assert table(world) == before
        assert is_there(world / "t")


@pytest.mark.parametrize("silent", [False, True])
def test_a_trigger_at_a_target_can_be_taken_off_again(world: World, silent: bool) -> None:
    """As mountd 0.1 left it there, and on record."""
    world.folder("source")
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/source", "target": "$/t"})
        world.reconcile()
        text = Path(world.state, "record.json").read_text()
        run("umount", str(world / "t"))
        was = record_of(world)[0]
        found = auto.copy(world / "t")
        for key, value in {"id": found, "root": "/"}.items():
            text = text.replace(f'"{key}": {json.dumps(was[key])}', f'"{key}": {json.dumps(value)}')
        Path(world.state, "record.json").write_text(text)
        assert record_of(world)[0]["id"] == found
        if silent:
            auto.fall_silent()
        assert world.mountd("unmount", "--all").status == 0
        assert not [each for each in world.mounts() if each.point == "/mnt/t"]
        assert not auto.asked


def test_an_automount_may_be_mounted_on_in_place(world: World) -> None:
    with automount(world / "auto") as auto:
        world.volumes(a={"source": "$/auto", "target": "$/auto", "user": GUEST})
        world.reconcile("-n")
        world.reconcile()
        assert owner(world / "auto/hello") == NODE
        assert not world.reconcile().document["changed"]
        assert world.mountd("status").status == 0
        assert world.mountd("unmount", "--all").status == 0
        assert owner(world / "auto/hello") == (501, 20)
        assert auto.asked == 1


@pytest.mark.parametrize("leads_to", ["auto", "auto/sub"])
def test_a_link_of_roots_to_an_automount_wakes_it_no_more_than_its_path(
    world: World, leads_to: str
) -> None:
    with automount(world / "auto") as auto:
        (world / "link").symlink_to(world / leads_to)
        world.volumes(a={"source": "$/link", "target": "$/t", "user": GUEST})
        world.reconcile()
        assert owner(world / "t/hello") == NODE
        auto.expire()
        asked = auto.asked
        for words in (("status",), ("check",), ("reconcile",)):
            volume = world.mountd(*words, "--json").volume("a")
            assert (volume["state"], volume["drift"]) == ("mounted", []), words
        assert auto.asked == asked
