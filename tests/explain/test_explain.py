"""`mountd explain`: as whom files are seen and stored, why, and what stops a user, truly."""

import json
import os
import random
import struct
import sys
from collections.abc import Callable
from errno import EOVERFLOW
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from golden import Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from old_kernel import DEBIAN_12, DEBIAN_13, NO_IDMAPPING, Kernel
from refusals import filesystem
from silent_server import Server
from world import (
    MOUNTD,
    Result,
    World,
    acting_as,
    let_users_reach,
    mount_idmapped,
    owner,
    run,
    running,
)

from mountd.core.idmapping import Extent, Extents, Idmapping
from mountd.core.model import Ids
from mountd.explain.explainer import explain
from mountd.explain.explanation import explanation_document
from mountd.explain.travel import arrival, departure
from mountd.reconcile.passes import Settings

_PASSWD = "root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"
_GROUP = "root:x:0:\nnode:x:1000:\nwww-data:x:33:\nhelpers:x:2000:node\n"
_GROUPS = {"node": (1000, 1000, (2000,)), "www-data": (33, 33, ()), "root": (0, 0, ())}
Make = Callable[[World], object]


@pytest.fixture
def machine(world: World) -> World:
    """A source of 501:20 with some files, accounts, and the folder that its target lies in."""
    source = world.folder("source")
    (source / "sub").mkdir()
    (source / "sub/file").touch()
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    for path in (source / "sub", source / "sub/file", source / "tool"):
        os.chown(path, 501, 20)
    (world / "home").mkdir()
    world.rootfs(_PASSWD, _GROUP)
    define(world)
    return world


def define(world: World, *lines: str, user: str | None = "node") -> None:
    """The manifest: the volume `work`, at /mnt/home/work, with these lines too."""
    named = [f'user = "{user}"'] if user else []
    keys = ['source = "$/source"', 'target = "$/home/work"', 'accounts = "$/rootfs"', *named]
    world.write("\n".join(["[volumes.work]", *keys, *lines, ""]))


def explained(world: World, *words: str, **how: Any) -> dict[str, Any]:
    """The document that the command prints."""
    result = world.mountd("explain", "work", *words, "--json", **how)
    assert result.status == 0, result.err
    return result.document


def told_of(world: World, path: str | None = None, user: str | None = None) -> dict[str, Any]:
    """The same without a process of its own, where much is asked for."""
    where = Settings(world.manifest, world.state)
    return explanation_document(explain(where, "work", path, user))


# How ids travel.


def test_a_file_is_seen_as_the_table_says_and_a_created_one_stored_so(machine: World) -> None:
    machine.reconcile()
    told = explained(machine)
    assert told["idmap_from"] == "kernel"
    rows = {row["kind"]: row for row in told["ids"]}
    assert [*rows] == ["owner", "user", "root"]
    assert (rows["owner"]["name"], rows["user"]["name"], rows["root"]["name"]) == (
        "node", None, "root",
    )  # fmt: skip
    for row in told["ids"]:
        os.chown(machine / "source/hello", *row["stored"].values())
        assert owner(machine / "home/work/hello") == (*row["seen"].values(),)
    with acting_as(1000, 1000):
        (machine / "home/work/new").touch()
    assert owner(machine / "source/new") == (*told["creates"].values(),) == (501, 20)


@pytest.mark.parametrize("is_mounted", [True, False], ids=["mounted", "not-yet"])
@pytest.mark.parametrize(
    ("user", "line"),
    [
        ("node", ""),
        ("node", 'idmap = "never"'),
        ("33:2000", ""),
        ("4242", ""),
        (None, ""),
        (None, "idmap = { uids = [{ stored = 501, seen = 1000, count = 1 }] }"),
        (
            None,
            "idmap.uids = [{ stored = 500, seen = 999, count = 10 }]\n"  # noqa: ISC004
            "idmap.gids = [{ stored = 20, seen = 33, count = 1 }]",
        ),
    ],
)
def test_the_table_is_the_kernels_for_every_rule(
    machine: World, user: str | None, line: str, is_mounted: bool
) -> None:
    os.chown(machine / "source/hello", 7, 20)
    os.chown(machine / "source/sub", 501, 7)
    (machine / "source").chmod(0o777)
    define(machine, line, user=user)
    if is_mounted:
        machine.reconcile()
    asked = ("node", "www-data", "0", "999:33", "4242:7")
    found = [told_of(machine, None, each) for each in asked]
    machine.reconcile()
    for told in found:
        assert told["idmap_from"] == ("kernel" if is_mounted else "manifest")
        for row in told["ids"]:
            os.chown(machine / "source/tool", *row["stored"].values())
            seen = (65534 if each is None else each for each in row["seen"].values())
            assert owner(machine / "home/work/tool") == (*seen,)
        if told["creates"]:
            assert told["path"].get("create") is (True if is_mounted else None)
            with acting_as(told["user"]["uid"], told["user"]["gid"]):
                (machine / "home/work/new").touch()
            assert owner(machine / "source/new") == (*told["creates"].values(),)
            (machine / "source/new").unlink()
        else:
            stopped = [each["code"] for each in told["path"]["stopped_by"]]
            assert stopped == ["unmapped"] * is_mounted
            with (
                acting_as(told["user"]["uid"], told["user"]["gid"]),
                pytest.raises(OSError, match="too large"),
            ):
                (machine / "home/work/new").touch()


@pytest.mark.parametrize("kernel", [None, DEBIAN_13, DEBIAN_12], ids=lambda it: it and it.name)
def test_the_live_mount_has_the_word_and_drift_is_told(
    machine: World, kernel: Kernel | None
) -> None:
    machine.reconcile(kernel=kernel)
    define(machine, user="www-data")
    told = explained(machine, kernel=kernel)
    assert told["idmap_from"] == ("record" if kernel else "kernel")
    assert [each["field"] for each in told["drift"]] == ["idmap"]
    assert told["ids"][0]["seen"] == {"uid": 1000, "gid": 1000}
    text = machine.mountd("explain", "work", kernel=kernel).out
    assert "(drifted)" in text
    assert "idmapping: uid 501↔1000, gid 20↔1000 (" in text
    assert "why: the manifest means another: the owner, 501:20, is to be seen as 33:33" in text
    stopped = told["path"]["stopped_by"]
    assert [each["deed"] for each in stopped] == ["write", "create"]
    assert "`mountd reconcile --manifest /mnt/mountd.toml" in stopped[0]["hint"]


def test_a_mount_that_someone_else_remade_is_explained_as_it_is(machine: World) -> None:
    machine.reconcile()
    mount_idmapped(machine / "source", machine / "home/work", (0, 0, 500), (501, 777, 1))
    told = explained(machine, "hello")
    assert told["error"]["code"] == "foreign-mount"
    assert told["path"]["read"] is None
    assert told["path"]["steps"][-1]["owner"]["uid"] == 777
    assert "what is at /mnt/home/work now is another mount" in told["notes"]


def test_in_place_ids_are_those_on_the_source(machine: World) -> None:
    machine.write(
        '[volumes.work]\nsource = "$/source"\ntarget = "$/source"\nuser = "node"\n'
        'accounts = "$/rootfs"\n'
    )
    before = explained(machine, "hello")
    machine.reconcile()
    after = explained(machine, "hello")
    assert before["ids"] == after["ids"]
    assert after["path"]["write"] is True
    assert before["ids"][0]["stored"] == {"uid": 501, "gid": 20}


@st.composite
def idmappings(draw: st.DrawFn) -> Extents:
    """Extents with gaps between them, that lie in another order as they are seen."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    gaps = [draw(st.lists(st.integers(0, 2), min_size=5, max_size=5)) for _ in "ab"]
    order = draw(st.permutations(range(len(counts))))
    stored, seen = 0, 0
    seen_at = {}
    for place, index in enumerate(order):
        seen += gaps[1][place]
        seen_at[index] = seen
        seen += counts[index]
    extents = []
    for index, count in enumerate(counts):
        stored += gaps[0][index]
        extents.append(Extent(stored, seen_at[index], count))
        stored += count
    return tuple(extents)


@given(extents=idmappings())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_travel_as_the_kernel_has_them_travel(world: World, extents: Extents) -> None:
    source, target = world / "source", world / "target"
    source.mkdir(exist_ok=True)
    source.chmod(0o777)
    os.chown(source, extents[0].stored, extents[0].stored)
    mount_idmapped(source, target, *extents)
    idmap = Idmapping(extents, extents)
    try:
        (source / "file").touch()
        for number in range(0, 20, 3):
            ids = Ids(number, (number + 7) % 20)
            os.chown(source / "file", *ids)
            assert owner(target / "file") == arrival(ids, idmap).shown
            stored = departure(ids, idmap)
            if stored.is_whole:
                with acting_as(*ids):
                    (target / "new").touch()
                assert owner(source / "new") == stored
                (source / "new").unlink()
            else:
                with acting_as(*ids), pytest.raises(OSError, match=os.strerror(EOVERFLOW)):
                    (target / "new").touch()
    finally:
        run("umount", str(target))


# Why.


@pytest.mark.parametrize(
    ("user", "lines", "rule", "said"),
    [
        ("node", [], "swap", ['user = "node"']),
        ("node", ['owner = "7:7"'], "swap", ['user = "node"', 'owner = "7:7"']),
        ("node", ['idmap = "always"'], "swap", ['user = "node"', 'idmap = "always"']),
        ("501:20", [], "is-user", ['user = "501:20"']),
        ("node", ["read_only = true"], "may-read", ['user = "node"', "read_only = true"]),
        ("node", ['idmap = "never"'], "never", ['idmap = "never"']),
        (None, [], "no-user", ["[volumes.work]"]),
        (None, ["idmap = { uids = [{ stored = 501, seen = 7, count = 1 }] }"], "extents", None),
    ],
)
def test_the_rule_is_named_with_the_lines_that_say_so(
    machine: World, user: str | None, lines: list[str], rule: str, said: list[str] | None
) -> None:
    define(machine, *lines, user=user)
    why = explained(machine)["why"]
    assert why["rule"] == rule
    assert [each["text"] for each in why["lines"]] == (said or lines)
    text = Path(machine.manifest).read_text().splitlines()
    for each in why["lines"]:
        assert (each["file"], text[each["line"] - 1]) == (machine.manifest, each["text"])
        line = f"{each['file']}:{each['line']}: {each['text']}"
        assert line in machine.mountd("explain", "work").out


def test_the_line_is_that_of_the_drop_in_or_the_default_that_counts(machine: World) -> None:
    text = '[defaults]\nuser = "www-data"\n' + Path(machine.manifest).read_text()
    Path(machine.manifest).write_text(text.replace('user = "node"', ""))
    (machine / "mountd.toml.d").mkdir()
    drop_in = machine / "mountd.toml.d/a.toml"
    assert explained(machine)["why"]["lines"][0]["line"] == 2
    drop_in.write_text('\n[volumes.work]\nuser = "node"\n')
    told = explained(machine)["why"]["lines"]
    assert told == [{"file": str(drop_in), "line": 3, "text": 'user = "node"'}]


def test_raw_ids_are_told_with_their_reason_and_the_way_out(machine: World) -> None:
    run("rm", "-r", str(machine / "source"))
    with filesystem(machine, "overlay"):
        define(machine, 'fallback = "plain"')
        machine.reconcile()
        told = explained(machine, "hello")
    assert told["fallback"] == "plain"
    assert "ids are raw: overlay refuses idmapped mounts" in told["why"]["message"]
    assert [each["text"] for each in told["why"]["lines"]] == [
        'user = "node"',
        'fallback = "plain"',
    ]
    (stop,) = told["path"]["stopped_by"]
    assert (stop["deed"], stop["code"]) == ("write", "mode")
    assert "lowerdir" in stop["hint"]  # not a chmod, which would be done to the host's files


def test_a_kernel_without_idmapping_is_the_reason(machine: World) -> None:
    machine.mountd("reconcile", kernel=NO_IDMAPPING)
    told = explained(machine, kernel=NO_IDMAPPING)
    assert told["fallback"] == "plain"
    assert told["path"]["create"] is False


# What the user may. Each answer is compared with what happens when the user tries.

_TRIES = """
import errno, json, os, subprocess, sys
path = sys.argv[1]
def tried(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.errno == errno.ENOEXEC
    return True
def create():
    new = os.path.join(path, "created")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(new)
kind = sys.argv[2]
deeds = {"reach": tried(os.stat, path)}
if kind == "folder":
    deeds |= {"read": tried(os.listdir, path), "create": tried(create)}
    deeds |= {"execute": tried(os.chdir, path)}
elif kind == "file":
    deeds["read"] = tried(open, path, "rb")
    deeds["write"] = tried(lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)))
    deeds["execute"] = tried(subprocess.run, [path])
print(json.dumps(deeds))
"""


def tries(world: World, path: Path, kind: str, user: str) -> dict[str, bool]:
    """What works when this user tries it."""
    uid, gid, groups = _GROUPS[user]
    python = os.path.realpath(sys.executable)
    let_users_reach(python, sys.base_prefix)
    given = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    ids = [f"--reuid={uid}", f"--regid={gid}", given, *(["--inh-caps=-all"] if uid else [])]
    done = world.run(["setpriv", *ids, "--", python, "-c", _TRIES, str(path), kind])
    found: dict[str, bool] = json.loads(done.out)
    return found


def compared(world: World, path: str = ".", user: str = "node") -> dict[str, Any]:
    """What is told of a path, once it is seen to be what happens."""
    told: dict[str, Any] = told_of(world, path, user)["path"]
    real = tries(world, Path(told["path"]), told["kind"] or "", user)
    assert told["reach"] == real.pop("reach")
    if told["reach"]:
        assert {deed: told[deed] or False for deed in real} == real
    return told


class Case(NamedTuple):
    """What is done to the machine, of what who is asked, and what stops him at what."""

    make: Make
    path: str
    user: str
    deed: str
    code: str
    at: str
    hint: str
    lines: tuple[str, ...] = ()
    says: str = ""


def _chmod(path: str, mode: int, *ids: int) -> Make:
    def make(world: World) -> None:
        if ids:
            os.chown(world / path, *ids)
        (world / path).chmod(mode)

    return make


def _acl(path: str, *entries: tuple[int, int, int]) -> Make:
    """Entries: tag, bits, id. Tags: 1 owner, 2 a user, 4 the group, 8 a group, 16 mask, 32 rest."""

    def make(world: World) -> None:
        acl = struct.pack("<I", 2)
        acl += b"".join(struct.pack("<HHI", t, b, i & 0xFFFFFFFF) for t, b, i in entries)
        os.setxattr(world / path, "system.posix_acl_access", acl)

    return make


def _runs(*words: str) -> Make:
    return lambda world: run(*(word.replace("$", world.path) for word in words))


_CASES = {
    "a folder above the target": Case(
        _chmod("home", 0o700), ".", "node", "reach", "mode", "home", "chmod o+x /mnt/home"
    ),
    "its group": Case(
        _chmod("home", 0o705, 0, 2000), ".", "node", "reach", "mode", "home", "chmod g+x"
    ),
    "a folder below the target": Case(
        _chmod("source/sub", 0o700, 7, 7), "sub/file", "node", "reach", "mode", "home/work/sub",
        "`chown 1000:1000 /mnt/home/work/sub` makes it the source owner's",
    ),
    "a file of another's": Case(
        _chmod("source/hello", 0o644, 7, 7), "hello", "node", "write", "mode", "home/work/hello",
        "setfacl -m u:1000:rw /mnt/home/work/hello",
    ),
    "its own bits": Case(
        _chmod("source/hello", 0o466), "hello", "node", "write", "mode", "home/work/hello",
        "`chmod u+w /mnt/home/work/hello`",
    ),
    "a folder to create in": Case(
        _chmod("source/sub", 0o755, 7, 7), "sub", "www-data", "create", "mode", "home/work/sub",
        "chmod o+w",
    ),
    "a program": Case(
        _chmod("source/tool", 0o744), "tool", "www-data", "execute", "mode", "home/work/tool",
        "chmod o+x",
    ),
    "an ACL for the user": Case(
        _acl("source/hello", (1, 7, -1), (2, 4, 33), (4, 7, -1), (16, 7, -1), (32, 7, -1)),
        "hello", "www-data", "write", "acl", "home/work/hello", "setfacl -m u:33:rw",
        says="has an ACL that gives no w",
    ),
    "an ACL's mask": Case(
        _acl("source/hello", (1, 7, -1), (2, 7, 33), (4, 7, -1), (16, 5, -1), (32, 7, -1)),
        "hello", "www-data", "write", "acl", "home/work/hello", "setfacl -m u:33:rw",
        says="has an ACL that gives no w",
    ),
    "an ACL for a group": Case(
        _acl("home", (1, 7, -1), (4, 7, -1), (8, 0, 2000), (16, 7, -1), (32, 7, -1)),
        ".", "node", "reach", "acl", "home", "getfacl /mnt/home",
        says="has an ACL that gives no x",
    ),
    "an ACL for several groups": Case(
        _acl("home", (1, 7, -1), (4, 7, -1), (8, 4, 1000), (8, 0, 2000), (16, 7, -1), (32, 7, -1)),
        ".", "node", "reach", "acl", "home", "setfacl -m u:1000:rwx",
        says="has an ACL that gives no x",
    ),
    "an ACL for the rest": Case(
        _acl("home", (1, 7, -1), (2, 7, 7), (4, 7, -1), (16, 7, -1), (32, 0, -1)),
        ".", "node", "reach", "acl", "home", "setfacl -m u:1000:rwx",
        says="has an ACL that gives no x",
    ),
    "read-only by the manifest": Case(
        lambda _: None, "hello", "node", "write", "read-only", "home/work/hello",
        "take `read_only = true` out", ("read_only = true", 'idmap = "always"'),
    ),
    "read-only, and none of its files": Case(
        lambda _: None, "hello", "www-data", "write", "read-only", "home/work/hello",
        "take `read_only = true` out", ("read_only = true", 'idmap = "always"'),
    ),
    "noexec by the manifest": Case(
        lambda _: None, "tool", "node", "execute", "noexec", "home/work/tool",
        "take `noexec = true` out", ("noexec = true",),
    ),
    "made read-only by someone": Case(
        _runs("mount", "-o", "remount,bind,ro", "$/home/work"), "hello", "node", "write",
        "read-only", "home/work/hello", "` undoes it",
    ),
    "immutable": Case(
        _runs("chattr", "+i", "$/source/hello"), "hello", "root", "write", "immutable",
        "home/work/hello", "`chattr -i /mnt/home/work/hello`",
    ),
    "immutable folder": Case(
        _runs("chattr", "+i", "$/source/sub"), "sub", "node", "create", "immutable",
        "home/work/sub", "chattr -i",
    ),
    "an owner that is left out": Case(
        _chmod("source/hello", 0o666, 7, 7), "hello", "root", "write", "unmapped",
        "home/work/hello", "add an extent",
        ("idmap = { uids = [{ stored = 0, seen = 0, count = 2 }] }",),
    ),
    "a user that is left out": Case(
        _chmod("source/sub", 0o777, 0, 0), "sub", "node", "create", "unmapped", "home/work/sub",
        "add an extent to `uids` with `seen = 1000`",
        ("idmap = { uids = [{ stored = 0, seen = 0, count = 2 }] }",),
    ),
    "no user in the manifest": Case(
        lambda _: None, "hello", "node", "write", "mode", "home/work/hello",
        "`user` in [volumes.work]", ("# no user",),
    ),
    "a file on the way": Case(
        lambda _: None, "hello/x", "node", "reach", "not-a-folder", "home/work/hello", "",
    ),
    "a missing folder": Case(
        lambda _: None, "sub/no/file", "node", "reach", "missing", "home/work/sub/no", "",
    ),
    "a name that is too long": Case(
        lambda _: None, "a" * 256, "node", "reach", "refused", f"home/work/{'a' * 256}", "",
        says="a name that is too long",
    ),
    "an endless link": Case(
        _runs("ln", "-s", "loop", "$/source/loop"), "loop", "node", "reach", "link",
        "home/work/loop", "readlink",
    ),
    "a link in a sticky folder": Case(
        _runs(
            "sh", "-c", "cd $/source/sub; ln -s file link; chown -h 8:8 link; chown 7:7 .;"
            "chmod 1777 .; echo 1 >/proc/sys/fs/protected_symlinks",
        ),
        "sub/link", "node", "reach", "link", "home/work/sub/link", "fs.protected_symlinks",
    ),
    "a mount that follows no links": Case(
        _runs(
            "sh", "-c", "ln -s hello $/source/link; mount -o remount,bind,nosymfollow $/home/work"
        ),
        "link", "node", "reach", "link", "home/work/link", "name the path",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_what_stops_the_user_is_named_as_it_happens(machine: World, case: Case) -> None:
    has_user = not any(line.startswith(("#", "idmap = {")) for line in case.lines)
    define(machine, *case.lines, user="node" if has_user else None)
    machine.reconcile()
    try:
        case.make(machine)
        told = compared(machine, case.path, case.user)
        text = machine.mountd("explain", "work", case.path, "--user", case.user).out
    finally:
        run("chattr", "-i", str(machine / "source/hello"), str(machine / "source/sub"))
    stops = {each["deed"]: each for each in told["stopped_by"]}
    stop = stops[case.deed]
    assert (stop["code"], stop["path"]) == (case.code, str(machine / case.at))
    assert case.hint in (stop["hint"] or "")
    assert case.says in stop["message"]
    assert told[case.deed] is False
    is_above = case.at == "home"
    assert ("(above the target, so nothing that the volume decides)" in text) == is_above
    long = [line for line in text.splitlines() if len(line) > 80 and "`mountd " not in line]
    assert len(case.path) > 80 or long == []  # a command stays whole, to be copied


_NOT_MOUNTED = "it isn't mounted, so only the way to its target was asked for"


def test_of_what_is_not_mounted_the_way_to_its_target_is_asked(machine: World) -> None:
    told = told_of(machine, "hello", "node")
    assert told["path"]["reach"] is True
    assert told["path"]["read"] is None
    assert _NOT_MOUNTED in told["notes"]
    (machine / "home").chmod(0o700)
    closed = told_of(machine, "hello", "node")["path"]
    assert closed["reach"] is False
    assert closed["stopped_by"][0]["path"] == "/mnt/home"
    assert not Path(machine.state).exists()


@pytest.mark.parametrize("seed", range(6))
def test_modes_owners_and_acls_at_random_are_told_as_they_turn_out(
    machine: World, seed: int
) -> None:
    chance = random.Random(seed)
    machine.reconcile()
    for path in ("home", "source", "source/sub", "source/sub/file", "source/hello"):
        ids = chance.choice([(501, 20), (1000, 1000), (0, 0), (33, 2000), (7, 2000)])
        os.chown(machine / path, *ids)
        (machine / path).chmod(chance.choice([0o755, 0o700, 0o750, 0o777, chance.randrange(512)]))
        if chance.random() < 0.3:
            bits = [chance.randrange(8) for _ in range(6)]
            people = [(2, bits[1], chance.choice([33, 501, 1000])), (8, bits[3], 2000)]
            entries = [(1, bits[0], -1), people[0], (4, bits[2], -1), people[1]]
            _acl(path, *entries, (16, bits[4], -1), (32, bits[5], -1))(machine)
    for user in _GROUPS:
        for path in (".", "sub/file", "hello"):
            compared(machine, path, user)


@pytest.mark.fault(25, "explain names it")
def test_the_filesystem_and_the_sources_own_mount_are_told_apart(machine: World) -> None:
    run("rm", "-r", str(machine / "source"))
    (machine / "source").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(machine / "source"))
    (machine / "source/hello").touch()
    run("chown", "-R", "501:20", str(machine / "source"))
    run("mount", "-o", "remount,bind,ro", str(machine / "source"))
    define(machine, 'idmap = "always"')
    machine.reconcile()
    (stop,) = compared(machine, "hello")["stopped_by"]
    assert "as its source's own mount is" in stop["message"]
    run("mount", "-o", "remount,ro", str(machine / "source"))
    (stop,) = compared(machine, "hello")["stopped_by"]
    assert stop["message"] == (
        "the filesystem that /mnt/home/work/hello lies on (tmpfs) is read-only"
    )


def test_a_mount_above_the_target_that_is_read_only_is_named(machine: World) -> None:
    (machine / "source/inner").mkdir()
    machine.reconcile()
    run("mount", "-t", "tmpfs", "-o", "ro,mode=777", "tmpfs", str(machine / "home/work/inner"))
    told = compared(machine, "inner")
    assert told["stopped_by"][0]["code"] == "read-only"


def test_links_are_followed_and_named_also_out_of_the_volume(machine: World) -> None:
    os.symlink("/mnt/rootfs/etc", machine / "source/out")
    os.symlink("../..", machine / "source/sub/up")
    machine.reconcile()
    told = explained(machine, "out/passwd")
    links = [each for each in told["path"]["steps"] if each["link"]]
    assert [(each["path"], each["link"]) for each in links] == [
        ("/mnt/home/work/out", "/mnt/rootfs/etc")
    ]
    assert told["path"]["write"] is False
    assert "a link leads out of the volume, to /mnt/rootfs/etc/passwd" in told["notes"]
    assert compared(machine, "sub/up")["kind"] == "folder"


def test_a_hostile_name_can_give_a_terminal_no_orders(machine: World) -> None:
    (machine / "source/\x1b[2J\n").mkdir()
    machine.reconcile()
    text = machine.mountd("explain", "work", "\x1b[2J\n/x").out
    assert "/mnt/home/work/\\x1b[2J\\n" in text
    assert "\x1b" not in text


def test_a_setgid_folder_gives_its_group(machine: World) -> None:
    os.chown(machine / "source/sub", 501, 7)
    (machine / "source/sub").chmod(0o2775)
    machine.reconcile()
    note = "/mnt/home/work/sub is setgid: what is created there gets its group"
    assert note in explained(machine, "sub")["notes"]
    assert note not in explained(machine)["notes"]


# Who is asked about.


def test_without_a_user_it_is_the_volumes_else_whoever_runs_it(machine: World) -> None:
    assert explained(machine)["user"] == {
        "name": "node", "uid": 1000, "gid": 1000, "groups": [2000],
    }  # fmt: skip
    define(machine, user=None)
    assert explained(machine)["user"]["name"] == "root"
    assert explained(machine, uid=33)["user"]["name"] == "www-data"


@pytest.mark.parametrize(
    ("user", "name", "ids"),
    [
        ("33", "www-data", (33, 33)),
        ("www-data:helpers", "www-data", (33, 2000)),
        ("4242", "uid 4242", (4242, 0)),
        ("4242:7", "uid 4242", (4242, 7)),
    ],
)
def test_every_form_of_a_user_is_taken(
    machine: World, user: str, name: str, ids: tuple[int, int]
) -> None:
    told = explained(machine, "--user", user)["user"]
    assert (told["name"], (told["uid"], told["gid"])) == (name, ids)


def test_any_user_can_ask_about_himself_and_is_told_what_he_can_not(machine: World) -> None:
    machine.reconcile()
    os.chown(machine / "source/hello", 7, 7)
    about_us = explained(machine, "hello", "--user", "www-data", uid=33)
    assert (about_us["path"]["read"], about_us["path"]["write"]) == (True, False)
    assert about_us["idmap_from"] == "kernel"
    other = explained(machine, "hello", uid=33)
    assert other["path"]["reach"] is None
    assert (
        "what node may was not asked, for that takes root's rights: run it as root"
        in other["notes"]
    )
    (machine / "home").chmod(0o700)
    closed = explained(machine, "hello", "--user", "www-data", uid=33)["path"]
    assert closed["stopped_by"][0]["path"] == "/mnt/home"
    (machine / "home").chmod(0o755)
    run("umount", str(machine / "home/work"))
    below = explained(machine, "hello", "--user", "www-data", uid=33)
    assert _NOT_MOUNTED in below["notes"]


def test_in_a_user_namespace_whoever_it_lacks_is_not_asked_about(machine: World) -> None:
    inside = ["unshare", "--user", "--map-root-user", "--mount", MOUNTD, "explain", "work"]
    where = ["-f", machine.manifest, "--state-dir", machine.state, "--user", "node"]
    told = machine.run([*inside, "hello", *where])
    assert told.status == 0
    assert "the kernel can't be asked as node" in told.out
    assert "yes" not in told.out


def test_whose_user_is_missing_is_asked_for(machine: World) -> None:
    define(machine, user="nobody")
    told = explained(machine, "hello")
    assert (told["state"], told["error"]["code"]) == ("pending", "no-user")
    assert told["user"] is None
    assert any("--user USER" in note for note in told["notes"])
    assert explained(machine, "--user", "node")["user"]["uid"] == 1000


# What is not mounted, or can't be.


def test_a_volume_that_fails_is_explained_with_its_fault(machine: World) -> None:
    os.chown(machine / "source", 0, 0)
    told = explained(machine, "hello")
    assert (told["state"], told["error"]["code"]) == ("failed", "root-owned")
    assert "owner" in told["error"]["hint"]
    assert told["ids"] == []
    assert told["idmap"] is told["why"] is told["creates"] is None
    assert "root-owned" not in machine.mountd("explain", "work").out
    assert "is swapped with root" in machine.mountd("explain", "work").out


def test_a_volume_that_has_left_the_manifest_is_explained(machine: World) -> None:
    machine.reconcile()
    machine.write("version = 1")
    told = explained(machine, "hello", "--user", "1000")
    assert told["ids"][0]["seen"] == {"uid": 1000, "gid": 1000}
    assert told["path"]["write"] is True
    assert "it is no longer in the manifest: the next pass takes it off" in told["notes"]


def test_a_server_that_is_silent_hangs_nothing(machine: World) -> None:
    machine.reconcile()
    server = Server(machine / "source/sub")
    try:
        server.fall_silent()
        run("mount", "--bind", str(machine / "source/sub"), str(machine / "home/work/sub"))
        told = explained(machine, "sub/file")
        assert told["path"]["stopped_by"][0]["code"] == "not-answering"
        assert told["ids"][0]["seen"] == {"uid": 1000, "gid": 1000}
    finally:
        server.die()


def test_a_source_that_is_silent_is_told_of_by_what_the_kernel_knows(machine: World) -> None:
    server = Server(machine / "fuse")
    try:
        machine.write(
            '[volumes.work]\nsource = "$/fuse"\ntarget = "$/home/work"\nuser = "node"\n'
            'accounts = "$/rootfs"\n'
        )
        machine.reconcile()
        told = explained(machine)
        assert any(note.startswith("fuse asks a server") for note in told["notes"])
        server.fall_silent()
        told = explained(machine, "hello")
        assert told["error"]["code"] == "not-answering"
        assert told["ids"][0]["stored"] == {"uid": 501, "gid": 20}
        assert told["path"]["stopped_by"][0]["code"] == "not-answering"
    finally:
        server.die()


def test_a_filesystem_that_lets_nobody_else_in_is_named(machine: World) -> None:
    (machine / "closed").mkdir()
    (machine / "source/fuse").mkdir()
    machine.reconcile()
    place = machine / "home/work/fuse"
    script = f"bindfs -f --no-allow-other {machine / 'closed'} {place} & "
    script += (
        f"until mountpoint -q {place}; do kill -0 $! || exit; done; echo; read _; kill $!; wait"
    )
    with running("sh", "-c", script):
        told = explained(machine, "fuse/x")["path"]
        denied = machine.as_user(1000, "stat", str(place))
        assert "Permission denied" in denied.err
        (stop,) = told["stopped_by"]
        assert (stop["deed"], stop["code"], stop["path"]) == ("reach", "refused", str(place))
        assert "allow_other" in stop["hint"]


# The command line, and what is printed.


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["wrok"], "has no volume `wrok`", "did you mean `work`?"),
        (["work", "/etc/passwd"], "/etc/passwd doesn't lie below", "such as `passwd`"),
        (["work", "/mnt/source/sub"], "doesn't lie below", "it is /mnt/home/work/sub"),
        (["work", "/mnt/home/works"], "doesn't lie below", "`works`"),
        (["work", "../x"], "`../x` has `..` in it", "without"),
        (["work", ""], "PATH is empty", "below /mnt/home/work"),
        (["work", "--user", "nodd"], "no user `nodd`", "did you mean `node`?"),
        (["work", "--user", "node:wheel"], "no group `wheel`", "numbers"),
        (["work", "--user", ":x"], "--user must be `name`", None),
        (["work", "--user", "99999999999"], "ids from 0 to", None),
    ],
)
def test_what_is_not_there_is_64_and_says_what_may_be_meant(
    machine: World, words: list[str], message: str, hint: str | None
) -> None:
    result = machine.mountd("explain", *words)
    assert (result.status, result.out) == (64, "")
    first, *rest = result.err.splitlines()
    assert message in first
    assert (hint or "") in "".join(rest)
    document = machine.mountd("explain", *words, "--json").document
    assert message in document["errors"][0]["message"]


def test_paths_are_relative_to_the_target_or_below_it(machine: World) -> None:
    (machine / "link").symlink_to("home")
    manifest = Path(machine.manifest)
    manifest.write_text(manifest.read_text().replace("/home/work", "/link/work"))
    machine.reconcile()
    for path in ("sub/file", "./sub//file/", "/mnt/home/work/sub/file", "/mnt/link/work/sub/file"):
        assert explained(machine, path)["path"]["path"] == "/mnt/home/work/sub/file"


def test_quiet_says_only_what_stops(machine: World) -> None:
    machine.reconcile()
    assert machine.mountd("explain", "work", "hello", "--quiet") == (0, "", "")
    (machine / "home").chmod(0o700)
    told = machine.mountd("explain", "work", "hello", "--quiet").out
    assert "reach         no: /mnt/home (mode 0700, of 0:0) gives others no x\n" in told
    assert "STORED" not in told


def _stopped_above(world: World) -> None:
    world.reconcile()
    (world / "home").chmod(0o750)


_SCREENS: dict[str, tuple[Make, list[str]]] = {
    "mounted": (World.reconcile, []),
    "stopped": (_stopped_above, ["sub/file", "--user", "www-data"]),
    "created": (World.reconcile, ["sub/new", "--user", "www-data"]),
    "left-out": (
        lambda world: define(
            world, "idmap = { uids = [{ stored = 501, seen = 1000, count = 1 }] }", user=None
        ),
        ["sub", "--user", "www-data"],
    ),
    "pending": (lambda world: define(world, user="nobody"), []),
}


@pytest.mark.parametrize("name", _SCREENS)
def test_what_a_person_reads(machine: World, golden: Golden, name: str) -> None:
    make, words = _SCREENS[name]
    os.chown(machine / "source/tool", 0, 0)
    make(machine)
    result: Result = machine.mountd("explain", "work", *words)
    assert (result.status, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if len(line) > 80] == []
    golden(f"explain-{name}", result.out)
