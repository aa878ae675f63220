"""What the kernel locks: mounts that stay together, and flags that stay as they are.

It is told before anything is done, and by every command in the same words.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from world import MOUNTD, World, run

_LOOKS = ("reconcile -n", "status", "check", "reconcile")
_INSIDE = """
set -e
edit() { sed -i "/# more/q" "$MANIFEST"; printf '%s\\n' "$@" >>"$MANIFEST"; }
look() { for words in "$@"; do
    $MOUNTD $words --json --manifest "$MANIFEST" --state-dir "$STATE" 2>/dev/null || :
done; }
"""


@pytest.fixture
def outside(world: World) -> World:
    """A world with a source of root's on a mount of its own, and a manifest of it."""
    (world / "source").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "source"))
    world.folder("source/in", owner=(0, 0))
    world.write('[volumes.work]\nsource = "$/source/in"\ntarget = "$/work"\n# more\n')
    return world


def inside(world: World, script: str) -> list[dict[str, Any]]:
    """What mountd tells of the volume each time, to root of a user namespace."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
    env = {"MOUNTD": MOUNTD, "MANIFEST": world.manifest, "STATE": world.state}
    done = world.run([*words, "bash", "-c", _INSIDE + script], env=env)
    assert done.status == 0, done.err
    decoder, text, found = json.JSONDecoder(), done.out, []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        text = text[end:]
        found += document["volumes"]
    return found


def same(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them tell of what is wrong."""
    assert len(told) == len(_LOOKS)
    for each in told:
        assert (each["state"], each["error"]) == ("failed", told[0]["error"])
    return told[0]


_ALL = " ".join(f'"{each}"' for each in _LOOKS)


@pytest.mark.parametrize("user", ["", 'user = "0:0"\nidmap = "always"'])
def test_mounts_that_stay_together_are_named_with_what_helps(outside: World, user: str) -> None:
    (outside / "source/in/sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(outside / "source/in/sub"))
    (outside / "source/in/sub/deep").touch()
    *alone, mounted, seen = inside(
        outside,
        f"""edit '{user}'; look {_ALL}; edit '{user}' "recursive = true"; look reconcile status
        test -e {outside / "work/sub/deep"}""",
    )
    wrong = same(alone)
    assert wrong["reason"] == "mount-refused"
    assert str(outside / "source/in/sub") in wrong["error"]["message"]
    assert "`recursive = true`" in wrong["error"]["hint"]
    assert mounted["state"] == seen["state"] == "mounted"
    assert mounted["fallback"] == ("plain" if user else None)


def test_a_mount_beside_the_source_stops_nothing(outside: World) -> None:
    (outside / "source/beside").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(outside / "source/beside"))
    (told,) = inside(outside, "look reconcile")
    assert told["state"] == "mounted"


KEYS = {
    "read_only = false": "ro",
    "nosuid = false": "nosuid",
    "nodev = false": "nodev",
    "noexec = false": "noexec",
    'atime = "strictatime"': "noatime",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_flag_that_is_locked_is_named(outside: World, key: str) -> None:
    run("mount", "-o", f"remount,bind,{KEYS[key]}", str(outside / "source"))
    told = inside(outside, f"edit '{key}'; look {_ALL}")
    wrong = same(told)
    assert wrong["reason"] == "mount-refused"
    assert f"`{key}`" in wrong["error"]["message"]
    assert f"leave `{key}` out" in wrong["error"]["hint"]


@pytest.mark.parametrize("key", KEYS)
def test_a_flag_that_is_locked_is_named_for_a_mount_that_is_there(outside: World, key: str) -> None:
    run("mount", "-o", f"remount,bind,{KEYS[key]}", str(outside / "source"))
    first, *told = inside(
        outside, f"look reconcile; edit '{key}'; look {_ALL}; test -e {outside / 'work/hello'}"
    )
    assert first["state"] == "mounted"
    for each in told:
        assert [it["field"] for it in each["drift"]] == ["flags"]
    wrong = same(told)
    assert f"`{key}`" in wrong["error"]["message"]


def test_a_flag_of_a_mount_below_counts_where_that_comes_along(outside: World) -> None:
    (outside / "source/in/sub").mkdir()
    run("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(outside / "source/in/sub"))
    told = inside(outside, f'edit "recursive = true" "noexec = false"; look {_ALL}')
    assert "`noexec = false`" in same(told)["error"]["message"]


def test_a_flag_that_is_added_is_no_matter(outside: World) -> None:
    (told,) = inside(outside, "edit 'noexec = true' 'read_only = true'; look reconcile")
    assert told["state"] == "mounted"


@pytest.mark.fault(43, "a source that is unbindable")
def test_an_unbindable_source_is_known_before(outside: World) -> None:
    run("mount", "--make-unbindable", str(outside / "source"))
    told = [outside.mountd(*words.split(), "--json").volume("work") for words in _LOOKS]
    wrong = same(told)
    assert str(outside / "source") + " is unbindable" in wrong["error"]["message"]
    hint = wrong["error"]["hint"]
    run(*hint.strip("`").split())
    assert outside.reconcile().volume("work")["state"] == "mounted"


def test_what_waits_for_such_a_volume_is_pending_beforehand(outside: World) -> None:
    run("mount", "--make-unbindable", str(outside / "source"))
    manifest = Path(outside.manifest)
    more = f'[volumes.more]\nsource = "{outside / "work"}"\ntarget = "{outside / "more"}"\n'
    manifest.write_text(manifest.read_text() + more)
    os.mkdir(outside / "work")
    for words in (["-n"], []):
        told = outside.reconcile(*words, status=1).volume("more")
        assert told["state"] == "pending"
        assert "volume `work` has to be in place first" in told["error"]["message"]


def test_a_look_leaves_nothing_behind(outside: World) -> None:
    """No mount, no record, no descriptor of what was tried."""
    before = outside.mounts()
    for words in ("reconcile -n", "status", "check"):
        outside.mountd(*words.split())
    assert outside.mounts() == before
    assert not os.path.exists(outside.state)
    assert not os.path.exists(outside / "work")
