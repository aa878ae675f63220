"""`kill -9` before any change of a pass over volumes in volumes and in place, and one more pass.

What changes anything are the calls of `CHANGES`, counted over all threads; all others build out of
sight, and what they made dies with the process (test_kill.py sees that there are no further ones).
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import kill_at
import pytest
from world import MOUNTD, Result, World, mount_id, owner, record_of

_KILLED = -9 % 256
_MOST = 99


def _tables(world: World, *, is_first: bool) -> dict[str, dict[str, Any]]:
    """Between the two a parent of two is replaced, and one in place; one comes, and one goes."""
    user, other = ("1000:1000", "2000:2000") if is_first else ("2000:2000", "1000:1000")

    def volume(name: str, target: str, user: str = "1001:1001") -> dict[str, Any]:
        return {"source": world / f"source/{name}", "target": world / target, "user": user}

    tables = {
        "share": {"source": world / "share", "target": world / "share", "user": other},
        "deep": volume("deep", "to/inner/deep"),
        "inner": volume("inner", "to/inner"),
        "outer": volume("outer", "to", user),
        "child": volume("child", "one/child"),
        "another": volume("another", "two/another"),
    }
    parent = "one" if is_first else "two"
    return {**tables, parent: volume(parent, parent, user)}


def _set_up(world: World) -> None:
    for name in ("outer", "inner", "deep", "child", "another", "one", "two"):
        (world.folder(f"source/{name}") / "hello").write_text(name)
    (world.folder("share") / "hello").write_text("share")
    world.volumes(**_tables(world, is_first=True))
    world.reconcile()


def _killed_at(world: World, number: int) -> Result:
    calls = ",".join(map(str, kill_at.CHANGES))
    words = [sys.executable, kill_at.__file__, str(number), calls, MOUNTD, "reconcile"]
    return world.run([*words, "--manifest", world.manifest, "--state-dir", world.state])


def _see_converged(world: World, tables: dict[str, dict[str, Any]], when: str) -> None:
    targets = sorted(str(each["target"]) for each in tables.values())
    assert sorted(mount.point for mount in world.mounts()) == targets, when
    for name, table in tables.items():
        uid = int(table["user"][:4])
        target = Path(table["target"])
        assert (target / "hello").read_text() == name, when
        assert owner(target) == owner(target / "hello") == (uid, uid), f"{name} {when}"
    recorded = {each["target"]: each["id"] for each in record_of(world)}
    assert recorded == {target: mount_id(target) for target in targets}, when
    assert len(record_of(world)) == len(targets), when


def _see_no_gap(world: World, when: str) -> None:
    for target, name, uids in (
        ("to", "outer", {1000, 2000}),
        ("to/inner", "inner", {1001}),
        ("to/inner/deep", "deep", {1001}),
        ("share", "share", {1000, 2000}),
    ):
        hello = world / target / "hello"
        assert hello.exists() and hello.read_text() == name, f"{target} is bare {when}"
        assert owner(hello)[0] in uids, f"{target} has raw ids {when}"


def _see_all_known(world: World, when: str) -> None:
    known = {each["id"] for each in record_of(world)}
    for mount in world.mounts():
        if os.path.exists(mount.point):
            assert mount_id(mount.point) in known, f"{mount.point} is in no record {when}"


@pytest.mark.fault(10, "nested and in place")
@pytest.mark.parametrize("is_first", [False, True], ids=["there", "back"])
@pytest.mark.parametrize(
    ("parent", "start", "step"), [("world", 1, 1), ("shared_world", 2, 4)], ids=["world", "shared"]
)
def test_a_pass_killed_before_any_change_is_made_good_by_the_next(
    parent: str, start: int, step: int, is_first: bool, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    _set_up(world)
    for number in range(start, _MOST, step):
        world.volumes(**_tables(world, is_first=not is_first))
        world.reconcile()
        tables = _tables(world, is_first=is_first)
        world.volumes(**tables)
        done = _killed_at(world, number)
        if done.status == 0:
            break
        when = f"after a kill at change {number}"
        assert done.status == _KILLED, f"{when}: {done}"
        _see_no_gap(world, when)
        _see_all_known(world, when)
        world.reconcile()
        _see_converged(world, tables, when)
        again = world.reconcile().document
        assert {each["action"] for each in again["volumes"]} == {"keep"}, when
        assert not again["changed"], when
    assert 20 < number < _MOST - step, "not all of the pass was killed"
    _see_converged(world, tables, "without a kill")


def test_the_pass_is_the_one_that_is_meant(world: World) -> None:
    _set_up(world)
    world.volumes(**_tables(world, is_first=False))
    told = world.reconcile("--dry-run").document
    actions = {each["name"]: each["action"] for each in told["volumes"]}
    assert actions == {
        **dict.fromkeys(("deep", "inner", "child", "another"), "keep"),
        **dict.fromkeys(("share", "outer"), "replace"),
        "two": "mount",
        "one": "unmount",
    }
    gaps = {each["name"]: re.findall(r"gap: (\S+)", json.dumps(each)) for each in told["volumes"]}
    assert gaps["two"] == [str(world / "two/another")]
    assert gaps["one"] == [str(world / "one/child")]
