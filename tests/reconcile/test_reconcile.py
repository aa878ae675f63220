"""The main job: what `stat` says on both sides of a volume, and what each kind of edit does."""

import os

from world import World, owner


def test_the_owner_of_the_source_appears_as_the_user(world: World) -> None:
    source = world.folder("source", owner=(501, 20))
    world.rootfs("node:x:1000:1000::/home/node:/bin/sh\n")
    world.volumes(
        work={
            "source": source,
            "target": world / "work",
            "user": "node",
            "accounts": world / "rootfs",
        }
    )
    result = world.reconcile()
    assert owner(world / "work") == owner(world / "work/hello") == (1000, 1000)
    assert result.volume("work")["action"] == "mount"
    assert result.volume("work")["state"] == "mounted"
    made = world.as_user(1000, "touch", str(world / "work/made"))
    assert made.status == 0, made.err
    assert owner(source / "made") == (501, 20)


def test_all_other_ids_are_what_they_were(world: World) -> None:
    source = world.folder("source", owner=(501, 20))
    ids = (0, 20, 501, 1000, 65534, 65535, 100000, 4294967294)
    for each in ids:
        (source / str(each)).touch()
        os.chown(source / str(each), each, each)
    world.volumes(work={"source": source, "target": world / "work", "user": "1000:1000"})
    world.reconcile()
    swapped_uid, swapped_gid = {501: 1000, 1000: 501}, {20: 1000, 1000: 20}
    for each in ids:
        wanted = (swapped_uid.get(each, each), swapped_gid.get(each, each))
        assert owner(world / f"work/{each}") == wanted
