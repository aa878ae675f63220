"""What `mountd explain` advises where somebody is stopped, followed: then the kernel lets him.

What stops 1000 at a path of the volume `work`, whose source is 501's, in a place with a space.
"""

import inspect
import os
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from world import MOUNTD, World, run

from mountd.explain import obstacle

_PATH = f"{os.path.dirname(MOUNTD)}:{os.environ['PATH']}"
_OURS = "--manifest $/mountd.toml --state-dir $/state"
_AT = "'$/the home/work"


class Row(NamedTuple):
    """A state, the deed that is refused and the hint (`$` is the world's path), and what follows.

    `follow`: keys of the volume, as the hint asks for; None: the hint's own command, each of these
    `ways` by itself.
    """

    of: str
    keys: dict[str, Any]
    make: str
    path: str
    deed: str
    hint: str
    follow: dict[str, Any] | None = None
    ways: tuple[int, ...] = (0,)


_AS = {"user": "1000:1000", "idmap": "always"}
_WITHOUT = {"user": None}

ROWS = {
    "no user": Row(
        "_mode", _WITHOUT, "true", "hello", "write",
        "say whom the owner is to be seen as, `user` in [volumes.work], then"
        f" `mountd reconcile {_OURS}`",
        _AS,
    ),
    "no idmapping": Row(
        "_mode", {**_AS, "idmap": "never"}, "true", "hello", "write",
        "say whom the owner is to be seen as, `user` in [volumes.work], without `idmap`, then"
        f" `mountd reconcile {_OURS}`",
        _AS,
    ),
    "a source of root's": Row(
        "_mode", _WITHOUT, "chown -R 0:1001 $/source", "hello", "write",
        "say whom the owner is to be seen as, `user` in [volumes.work] and, where you trust that"
        f' one with root\'s files, `owner = "0:1001"`, then `mountd reconcile {_OURS}`',
        {**_AS, "owner": "0:1001"},
    ),
    "its owner may not, and the user would be no better off": Row(
        "_mode", _WITHOUT, "chmod 444 $/source/hello", "hello", "write",
        f"`chmod o+w {_AT}/hello'`, or for this user alone `setfacl -m u:1000:rw {_AT}/hello'`",
        ways=(0, 1),
    ),
    "an ACL": Row(
        "_acl", _WITHOUT, "setfacl -m u:1000:r $/source/hello", "hello", "write",
        f"`getfacl {_AT}/hello'` shows it, `setfacl -m u:1000:rw {_AT}/hello'` adds the user to it",
        ways=(1,),
    ),
    "the mode of the user's own": Row(
        "_mode", _AS, "chmod 444 $/source/hello", "hello", "write", f"`chmod u+w {_AT}/hello'`",
    ),
    "a file of another's": Row(
        "_mode", _AS, "chown 7:7 $/source/hello", "hello", "write",
        f"`chown 1000:1000 {_AT}/hello'` makes it the source owner's, or for this user alone"
        f" `setfacl -m u:1000:rw {_AT}/hello'`",
        ways=(0, 1),
    ),
    "read-only by the manifest": Row(
        "_by_flag", {**_AS, "read_only": True}, "true", "hello", "write",
        "take `read_only = true` out", _AS,
    ),
    "noexec by the manifest": Row(
        "_by_flag", {**_AS, "noexec": True}, "true", "tool", "execute",
        "take `noexec = true` out", _AS,
    ),
    "noexec by the source's own mount": Row(
        "_by_flag", _AS, "mount -o remount,noexec $/", "tool", "execute",
        "remount that, or set `noexec = false`", {**_AS, "noexec": False},
    ),
    "made read-only by someone": Row(
        "_by_flag", _AS, "true", "hello", "write", f"`mountd reconcile {_OURS}` undoes it",
    ),
    "a read-only mount of another's": Row(
        "_read_only", _AS, "true", "in/file", "write",
        f"`mount -o remount,bind,rw {_AT}/in'`",
    ),
    "a noexec mount of another's": Row(
        "_noexec", _AS, "true", "in/tool", "execute", f"`mount -o remount,bind,exec {_AT}/in'`",
    ),
    "immutable": Row(
        "_immutable", _AS, "chattr +i $/source/hello", "hello", "write",
        f"`chattr -i {_AT}/hello'`",
    ),
    "a file whose owner no extent covers": Row(
        "_unmapped", {"idmap": {"uids": [{"stored": 501, "seen": 1000, "count": 1}]}},
        "chown 7:20 $/source/hello; chmod 666 $/source/hello", "hello", "write",
        "add an extent for the id that it is stored as",
        {"idmap": {"uids": [{"stored": 501, "seen": 1000, "count": 1},
                            {"stored": 7, "seen": 7, "count": 1}]}},
    ),
    "ids as which nothing can be stored": Row(
        "cannot_create", {"idmap": {"uids": [{"stored": 501, "seen": 9, "count": 1}]}},
        "chmod 777 $/source", ".", "create", "add an extent to `uids` with `seen = 1000`",
        {"idmap": {"uids": [{"stored": 501, "seen": 9, "count": 1},
                            {"stored": 1000, "seen": 1000, "count": 1}]}},
    ),
}  # fmt: skip

_LATER = {
    "made read-only by someone": "mount -o remount,bind,ro '$/the home/work'",
    "a read-only mount of another's": "mount --bind $/free '$/the home/work/in' &&"
    " mount -o remount,bind,ro '$/the home/work/in'",
    "a noexec mount of another's": "mount --bind $/free '$/the home/work/in' &&"
    " mount -o remount,bind,noexec '$/the home/work/in'",
}
"""What is done once the volume is mounted."""

UNFOLLOWED = {
    "obstacle": "it chooses among the others",
    "is_read_only": "no words",
    "said": "the kernel's words",
    "_refused": "a server or a security module decides",
    "link_refused": "a link that the kernel keeps others from; test_explain.py",
    "endless_link": "the link is for its owner to make anew; test_explain.py",
    "missing": "no hint",
    "not_a_folder": "no hint",
    "not_visible": "its hint is kernel/cause.py's, followed in tests/test_hints.py",
    "shut": "the same",
    "failing": "a server that is gone, as in tests/test_hints.py",
    "not_answering": "a server that is silent, as in tests/test_hints.py",
}


def _define(world: World, keys: dict[str, Any]) -> None:
    table = {"source": world / "source", "target": world / "the home/work", **keys}
    world.volumes(work={key: value for key, value in table.items() if value is not None})


def _shell(world: World, script: str) -> None:
    script = script.replace("$/", f"{world.path}/")
    done = subprocess.run(["sh", "-ec", script], env={**os.environ, "PATH": _PATH}, check=False)
    assert done.returncode == 0, script


def _asked(world: World, row: Row) -> tuple[bool, list[str]]:
    words = ["explain", "work", row.path, "--user", "1000:1000", "--json"]
    path = world.mountd(*words).document["path"]
    return path[row.deed], [
        each["hint"] for each in path["stopped_by"] if each["deed"] in (row.deed, "reach")
    ]


@pytest.mark.parametrize(
    ("state", "way"), [(state, way) for state, row in ROWS.items() for way in row.ways]
)
def test_what_is_advised_helps(world: World, state: str, way: int) -> None:
    row = ROWS[state]
    source = world.folder("source")
    free = world.folder("free", owner=(1000, 1000))
    for path in (source / "tool", free / "tool", free / "file"):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        os.chown(path, *((501, 20) if path.parent == source else (1000, 1000)))
    (source / "in").mkdir()
    os.chown(source / "in", 501, 20)
    try:
        _shell(world, row.make)
        _define(world, row.keys)
        world.reconcile()
        _shell(world, _LATER.get(state, "true"))
        hint = row.hint.replace("$", world.path)
        assert _asked(world, row) == (False, [hint])
        if row.follow is not None:
            _define(world, row.follow)
            world.reconcile()
        else:
            _shell(world, hint.split("`")[1::2][way])
        assert _asked(world, row) == (True, [])
    finally:
        run("chattr", "-i", str(source / "hello"))


def test_every_obstacle_has_a_row_or_a_reason_why_not() -> None:
    helpers: dict[str, Callable[..., Any]] = dict(inspect.getmembers(obstacle, inspect.isfunction))
    known = {
        name
        for name, each in helpers.items()
        if each.__module__ == obstacle.__name__ and "Obstacle" in str(inspect.signature(each))
    }
    rows = {row.of for row in ROWS.values()}
    assert rows & UNFOLLOWED.keys() == set()
    assert known <= rows | UNFOLLOWED.keys()
