"""What is built on other volumes: overlays on them, users looked up in them, links into them."""

import os
from pathlib import Path
from typing import Any

import pytest
from world import World, mount_id, owner, run


def _lower(world: World, **keys: Any) -> dict[str, Any]:
    source = world / "home"
    if not source.exists():
        (world.folder("home") / "file").write_text("hello\n")
        os.chown(source / "file", 501, 20)
    return {"source": source, "target": world / "lower", "user": "1000:1000", **keys}


def _overlay(world: World, *options: str) -> dict[str, Any]:
    for name in ("up", "work"):
        if not (world / name).exists():
            world.folder(name)
    layers = [
        f"lowerdir={world / 'lower'}",
        f"upperdir={world / 'up'}",
        f"workdir={world / 'work'}",
    ]
    return {
        "type": "overlay",
        "source": "overlay",
        "options": [*layers, *options],
        "target": world / "view",
    }


def _overlays(world: World) -> int:
    table = Path("/proc/self/mountinfo").read_text()
    return sum(" - overlay " in each and f" {world.path}" in each for each in table.splitlines())


def _verbs(world: World, *words: str, status: int = 0) -> dict[str, str]:
    document = world.reconcile(*words, status=status).document
    found = {each["name"]: each["action"] for each in document["volumes"]}
    return found | {each["type"]: each["action"] for each in document["filesystems"]}


ALL_KEPT = {"view": "keep", "lower": "keep", "overlay": "keep"}


def test_an_overlay_comes_after_the_volumes_that_its_layers_lie_in(world: World) -> None:
    world.volumes(view=_overlay(world), lower=_lower(world))
    planned = world.reconcile("--dry-run").document
    assert planned["filesystems"][0]["notes"] == ["after lower"]
    assert world.reconcile().document["filesystems"][0]["state"] == "mounted"
    assert (world / "view/file").read_text() == "hello\n"
    assert owner(world / "view/file") == (1000, 1000)
    assert _verbs(world) == ALL_KEPT


def test_an_overlay_on_a_volume_that_was_replaced_is_drift(world: World) -> None:
    world.volumes(view=_overlay(world), lower=_lower(world))
    world.reconcile()
    world.volumes(view=_overlay(world), lower=_lower(world, user="2000:2000"))
    replaced = dict.fromkeys(ALL_KEPT, "replace")
    assert _verbs(world, "--dry-run") == replaced
    assert _verbs(world) == replaced
    assert owner(world / "view/file") == (2000, 2000)
    assert _verbs(world) == ALL_KEPT
    assert _overlays(world) == 2  # the raw one, and the volume


def test_an_overlay_sees_that_its_layer_was_replaced_in_an_earlier_pass(world: World) -> None:
    world.volumes(view=_overlay(world), lower=_lower(world))
    world.reconcile()
    world.volumes(lower=_lower(world, user="2000:2000"))
    (world / "view/new").write_text("")
    with (world / "view/new").open():  # so that it stays
        world.reconcile(status=1)
    world.volumes(view=_overlay(world), lower=_lower(world, user="2000:2000"))
    assert _verbs(world) == {"view": "replace", "lower": "keep", "overlay": "replace"}
    assert owner(world / "view/file") == (2000, 2000)
    assert (world / "view/new").exists()


def test_an_overlay_stays_where_its_layer_comes_back_as_it_was(world: World) -> None:
    world.volumes(view=_overlay(world), lower=_lower(world))
    world.reconcile()
    before = mount_id(world / "view")
    run("umount", str(world / "lower"))
    assert _verbs(world) == ALL_KEPT | {"lower": "mount"}
    assert mount_id(world / "view") == before
    (Path(world.state) / "record.json").unlink()
    assert _verbs(world) == ALL_KEPT
    assert mount_id(world / "view") == before


def test_an_overlay_over_its_own_layer_is_not_built_on_itself(world: World) -> None:
    view = _overlay(world)
    world.folder("lower")
    (world / "lower/file").write_text("hello\n")
    world.volumes(view={**view, "target": world / "lower"})
    world.reconcile()
    before = mount_id(world / "lower")
    assert _verbs(world) == {"view": "keep", "overlay": "keep"}
    assert mount_id(world / "lower") == before


def test_a_layer_that_is_missing_is_pending_until_it_is_there(world: World) -> None:
    world.volumes(view=_overlay(world))
    assert world.reconcile(status=1).volume("view")["reason"] == "no-source"
    world.folder("lower")
    assert world.reconcile().volume("view")["state"] == "mounted"


def test_an_overlay_waits_for_a_layers_volume_that_fails(world: World) -> None:
    lower = _lower(world, source=world / "missing")
    world.volumes(view=_overlay(world), lower=lower)
    found = world.reconcile(status=1).document
    assert [each["state"] for each in found["volumes"]] == ["pending", "pending"]
    assert found["volumes"][0]["error"]["message"].startswith(
        "volume `lower` has to be in place first"
    )
    assert _overlays(world) == 0


# `accounts`, and links -------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["4242", "node", "node:staff"])
@pytest.mark.parametrize("place", ["", "/etc"])
def test_a_user_is_looked_up_where_a_volume_has_the_accounts(
    world: World, user: str, place: str
) -> None:
    image = world.rootfs("node:x:4242:4243::/:\n", "staff:x:4244:\n")
    root = world.folder("at-rootfs")
    (root / "etc").mkdir()
    data = {"source": world.folder("data"), "target": world / "at", "user": user, "accounts": root}
    image_volume = {"source": f"{image}{place}", "target": f"{root}{place}"}
    world.volumes(data=data, image=image_volume)
    assert world.reconcile("-n").volume("data")["notes"] == ["after image"]
    world.reconcile()
    assert owner(world / "at") == (4242, 4244 if ":" in user else 4243)
    assert set(_verbs(world).values()) == {"keep"}


def test_accounts_in_their_own_volume_are_a_mistake_and_the_hint_helps(world: World) -> None:
    image = world.rootfs("node:x:4242:4242::/:\n")
    os.chown(image, 501, 20)
    keys = {"source": image, "target": world / "at", "user": "node"}
    world.volumes(image={**keys, "accounts": world / "at"})
    (error,) = world.reconcile(status=78).document["errors"]
    assert "looked up in what is yet to be mounted there" in error["message"]
    assert error["hint"] == f'look it up in the source: `accounts = "{image}"`'
    world.volumes(image={**keys, "accounts": image})
    world.reconcile()


def test_a_volume_may_bring_the_machines_own_accounts(world: World) -> None:
    (world / "passwd").write_text("root:x:0:0::/:\n")
    world.volumes(accounts={"source": world / "passwd", "target": "/etc/passwd", "user": "root"})
    checked = world.mountd("check")
    assert (checked.status, "ok, 1 volume" in checked.err) == (0, True)


@pytest.mark.parametrize("key", ["source", "accounts", "options"])
def test_a_link_that_dangles_until_a_volume_is_mounted_orders_them(world: World, key: str) -> None:
    disk = world.folder("disk")
    inner = world.folder("disk/pkg")
    (inner / "etc").mkdir()
    (inner / "etc/passwd").write_text("node:x:4242:4242::/:\n")
    (world / "link").symlink_to(world / "at/pkg")
    last: dict[str, Any] = {"source": world.folder("data"), "target": world / "last"}
    if key == "source":
        last |= {"source": world / "link/etc"}
    elif key == "accounts":
        last |= {"user": "node", "accounts": world / "link"}
    else:
        last |= _overlay(world) | {"target": world / "last"}
        last["options"][0] = f"lowerdir={world / 'link/etc'}"
    world.volumes(last=last, first={"source": disk, "target": world / "at"})
    world.reconcile()
    if key == "accounts":
        assert owner(world / "last") == (4242, 4242)
    else:
        assert (world / "last/passwd").exists()
    assert set(_verbs(world).values()) == {"keep"}


def test_volumes_that_need_each_other_by_options_are_a_circle(world: World) -> None:
    view = _overlay(world)
    world.volumes(view=view, lower=_lower(world, source=world / "view/home"))
    (error,) = world.reconcile(status=78).document["errors"]
    assert error["message"] == "volumes need each other in a circle: `view`, `lower`, `view`"
