"""Users' names as docs/boxlite.md has them; test_guest_old.py runs its first table in a guest."""

import pytest
from boxlite import ERROR, users
from world import World, owner

_PASSWD, _GROUP = "node:x:1000:100::/home/node:/bin/sh\n", "staff:x:50:\n"
_OWNER = (501, 20)


@pytest.mark.parametrize(("user", "outcome"), users().items())
def test_a_user_is_who_the_page_says(world: World, user: str, outcome: str) -> None:
    source = world.folder("source", owner=_OWNER)
    accounts = str(world.rootfs(_PASSWD, _GROUP))
    target = str(world / "target")
    world.volumes(work={"source": source, "target": target, "user": user, "accounts": accounts})
    told = world.mountd("reconcile", "--json")
    if told.status == 78:
        assert outcome == ERROR
        return
    volume = told.volume("work")
    if volume["state"] == "pending":
        assert outcome == f"waits: `{volume['reason']}`"
        return
    uid, gid = owner(target)
    is_same = gid == _OWNER[1]
    assert outcome == (f"uid {uid}; gids stay as they are" if is_same else f"{uid}:{gid}")


def test_the_page_has_each_kind_of_name() -> None:
    assert len(users()) == 11
