"""`user` in every form, looked up in the files of a root filesystem and nowhere else."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import Result, World, owner, run

from mountd.reconcile.accounts import _Group, _Passwd

HIGHEST = 4294967294
NODE = "node:x:1000:1000::/home/node:/bin/sh\n"

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh

node:x:1000:1000::/home/node:/bin/sh
node:x:7:7:a second line of this name:/:/bin/sh
other:x:1000:55:a second line of this uid:/:/bin/sh
latin:x:1234:1235:M\xfcller:/home/latin:/bin/sh
m\xfcller:x:3000:3001::/:/bin/sh
# R\xe9gl\xe9
m\xc3\xbcller:x:3002:3003::/:/bin/sh
4242:x:8:8:a name of digits:/:/bin/sh
broken:x:many:1::/:/bin/sh
broken:x:2000::/:/bin/sh
broken:x:2000:2001::/:/bin/sh
no colon at all
:x:5000:5000:no name:/:/bin/sh
negative:x:-1:5::/:/bin/sh
plus:x:+5:5::/:/bin/sh
spaced:x: 5:5::/:/bin/sh
arabic:x:\xd9\xa5:5::/:/bin/sh
too-high:x:4294967295:5::/:/bin/sh
too-high-group:x:5:4294967295::/:/bin/sh
far-too-high:x:99999999999999999999:5::/:/bin/sh
short:x:6000
top:x:4294967294:4294967294::/:/bin/sh
last:x:9000:9001::/:/bin/sh"""
GROUP = b"""\
root:x:0:
staff:x:50:node
staff:x:51:
4243:x:9:
broken:x:many:
broken:x:60:
no-number:x::
too-high:x:4294967295:
gr\xfcn:x:70:
last:x:80:"""

FOUND: dict[str | int, tuple[int, int]] = {
    "node": (1000, 1000),
    "1000": (1000, 1000),
    1000: (1000, 1000),
    "node:staff": (1000, 50),
    "1000:staff": (1000, 50),
    "node:50": (1000, 50),
    "1000:50": (1000, 50),
    "node:1000": (1000, 1000),
    "node:root": (1000, 0),
    "root": (0, 0),
    0: (0, 0),
    "0:0": (0, 0),
    "root:staff": (0, 50),
    # no entry: gids stay as they are
    "777": (777, 20),
    777: (777, 20),
    "777:staff": (777, 50),
    "777:78": (777, 78),
    "5000": (5000, 20),
    "5": (5, 20),
    "8": (8, 8),
    # digits are a number, even where they are somebody's name
    "4242": (4242, 20),
    "node:4243": (1000, 4243),
    "00501:0020": (501, 20),
    "latin": (1234, 1235),
    "müller": (3002, 3003),
    "3000": (3000, 3001),
    "broken": (2000, 2001),
    "node:broken": (1000, 60),
    "last:last": (9000, 80),
    "top": (HIGHEST, HIGHEST),
    HIGHEST: (HIGHEST, HIGHEST),
    f"{HIGHEST}:{HIGHEST}": (HIGHEST, HIGHEST),
    f"7:{HIGHEST}": (7, HIGHEST),
}
MISSING = {
    "ghost": "no-user",
    "ghost:ghosts": "no-user",
    "Node": "no-user",
    "x": "no-user",
    "negative": "no-user",
    "plus": "no-user",
    "spaced": "no-user",
    "arabic": "no-user",
    "٥": "no-user",
    "too-high": "no-user",
    "too-high-group": "no-user",
    "far-too-high": "no-user",
    "short": "no-user",
    "no colon at all": "no-user",
    "node:ghosts": "no-group",
    "777:ghosts": "no-group",
    "node:no-number": "no-group",
    "node:too-high": "no-group",
    "node:node": "no-group",
}
WRONG: list[Any] = [
    "",
    ":",
    "node:",
    ":staff",
    "node:staff:more",
    "no\nde",
    "-1",
    -1,
    "node:-1",
    HIGHEST + 1,
    f"{HIGHEST + 1}",
    f"1:{HIGHEST + 1}",
    2**32,
    10**30,
    "9" * 5000,
    True,
    1.5,
    ["node"],
    {"name": "node"},
]


def by_user(world: World, users: list[Any], **keys: Any) -> dict[str, Any]:
    """A volume for each user of one source, and the users by their volumes' names."""
    names = {f"v{number}": user for number, user in enumerate(users)}
    table = {"source": world / "source", **keys}
    world.volumes(
        **{name: {**table, "target": world / name, "user": user} for name, user in names.items()}
    )
    return names


def try_one(world: World, *words: str, status: int = 0, **keys: Any) -> Result:
    """Mount `source` at `seen` as `node`, beside a volume that needs no account."""
    table = {"source": world / "source", "user": "node", **keys}
    beside = {"source": world / "source", "target": world / "beside", "user": "600:600"}
    world.volumes(seen={**table, "target": world / "seen"}, beside=beside)
    return world.reconcile(*words, status=status)


@pytest.fixture(autouse=True)
def source(world: World) -> Path:
    return world.folder("source", owner=(501, 20))


def test_a_user_is_a_name_or_a_number_with_or_without_a_group(world: World) -> None:
    keys = {"accounts": world.rootfs(PASSWD, GROUP), "owner": "501:20"}
    names = by_user(world, [*FOUND], **keys)
    result = world.reconcile()
    assert {user: owner(world / name) for name, user in names.items()} == FOUND
    (note,) = [
        note
        for name, user in names.items()
        if user == "777"
        for note in result.volume(name)["notes"]
        if "account" in note
    ]
    assert "gids stay" in note


def test_a_name_without_a_wellformed_entry_is_pending_and_the_others_go_on(world: World) -> None:
    accounts = world.rootfs(PASSWD, GROUP)
    names = by_user(world, [*MISSING, "node"], accounts=accounts)
    result = world.reconcile(status=1)
    volumes = {names[each["name"]]: each for each in result.document["volumes"]}
    assert volumes.pop("node")["state"] == "mounted"
    assert {user: (each["state"], each["reason"]) for user, each in volumes.items()} == {
        user: ("pending", reason) for user, reason in MISSING.items()
    }
    assert [each.point for each in world.mounts()] == [str(world / f"v{len(MISSING)}")]
    for user, each in volumes.items():
        user_name, _, group = user.partition(":")
        is_user = each["reason"] == "no-user"
        assert f"`{user_name if is_user else group}`" in each["error"]["message"]
        assert f"{accounts}/etc/{'passwd' if is_user else 'group'}" in each["error"]["message"]


def test_what_is_no_user_at_all_is_an_error_of_the_manifest(world: World) -> None:
    names = by_user(world, [*WRONG, "1000:1000"])
    result = world.mountd("reconcile", "--json")
    assert result.status == 78, result.err
    messages = [each["message"] for each in result.document["errors"]]
    named = [{name for name in names if f"volumes.{name}.user`" in each} for each in messages]
    assert named == [{f"v{number}"} for number in range(len(WRONG))]
    assert world.mounts() == []


@pytest.mark.parametrize("keys", [{"user": "0" * 5000 + "7:7"}, {"owner": "0" * 5000 + "7:7"}])
def test_digits_without_end_are_a_number_or_an_error_and_no_crash(
    world: World, keys: dict[str, str]
) -> None:
    world.volumes(
        seen={"source": world / "source", "target": world / "seen", "user": "7:7", **keys}
    )
    assert world.mountd("reconcile").status in (0, 78)


def test_an_account_that_is_commented_out_is_none(world: World) -> None:
    passwd = "#node:x:1000:55::/:/bin/sh\n" + NODE
    names = by_user(world, ["node", "1000"], accounts=world.rootfs(passwd))
    world.reconcile()
    assert [owner(world / name) for name in names] == [(1000, 1000)] * 2


@pytest.mark.parametrize(
    ("user", "before", "after", "reason"),
    [
        ("node", ("", ""), (NODE, ""), "no-user"),
        ("node:staff", (NODE, ""), (NODE, "staff:x:1000:\n"), "no-group"),
        ("1000:staff", ("", ""), ("", "staff:x:1000:\n"), "no-group"),
    ],
)
def test_a_pending_volume_is_mounted_once_its_user_is_there(
    world: World, user: str, before: tuple[str, str], after: tuple[str, str], reason: str
) -> None:
    keys = {"user": user, "accounts": world.rootfs(*before)}
    volume = try_one(world, status=1, **keys).volume("seen")
    assert (volume["state"], volume["reason"], volume["action"]) == ("pending", reason, None)
    assert [each.point for each in world.mounts()] == [str(world / "beside")]
    world.rootfs(*after)
    assert world.reconcile().volume("seen")["action"] == "mount"
    assert owner(world / "seen") == (1000, 1000)


def test_a_pending_volume_that_is_not_required_fails_no_run(world: World) -> None:
    volume = try_one(world, accounts=world.rootfs(""), required=False).volume("seen")
    assert volume["state"] == "pending"


def test_a_mounted_volume_keeps_its_mount_when_its_user_goes(world: World) -> None:
    try_one(world, accounts=world.rootfs(NODE))
    world.rootfs("")
    assert world.reconcile(status=1).volume("seen")["reason"] == "no-user"
    assert owner(world / "seen") == (1000, 1000)


def test_a_user_with_another_uid_than_before_is_a_replacement(world: World) -> None:
    try_one(world, accounts=world.rootfs(NODE))
    world.rootfs("node:x:1001:1001::/:/bin/sh\n")
    assert world.reconcile().volume("seen")["action"] == "replace"
    assert owner(world / "seen") == (1001, 1001)


@pytest.mark.parametrize("what", ["etc/passwd", "etc", "the root"])
def test_a_missing_passwd_is_one_without_entries(world: World, what: str) -> None:
    root = world / "rootfs"
    if what != "the root":
        (root / "etc" if what == "etc/passwd" else root).mkdir(parents=True)
    by_user(world, ["1000:1000", "777", "node", "1000:staff"], accounts=root)
    result = world.reconcile(status=1)
    assert [owner(world / name) for name in ("v0", "v1")] == [(1000, 1000), (777, 20)]
    assert [result.volume(name)["reason"] for name in ("v2", "v3")] == ["no-user", "no-group"]


def test_a_missing_group_file_is_one_without_entries(world: World) -> None:
    root = world.rootfs(NODE)
    (root / "etc/group").unlink()
    by_user(world, ["node", "node:50", "node:staff"], accounts=root)
    result = world.reconcile(status=1)
    assert [owner(world / name) for name in ("v0", "v1")] == [(1000, 1000), (1000, 50)]
    assert result.volume("v2")["reason"] == "no-group"


LINKS = {
    "absolute": ("etc/passwd", "/mnt/out/passwd"),
    "relative": ("etc/passwd", "../../../../../mnt/out/passwd"),
    "folder": ("etc", "/mnt/out"),
    "folder, relative": ("etc", "../../mnt/out"),
}


@pytest.mark.parametrize("is_inside", [True, False], ids=["there inside", "missing inside"])
@pytest.mark.parametrize(("link", "leads_to"), LINKS.values(), ids=LINKS)
def test_a_link_in_the_accounts_root_stays_in_it(
    world: World, link: str, leads_to: str, *, is_inside: bool
) -> None:
    root = world / "rootfs"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(leads_to)
    passwds = {world / "out": 666, root / "mnt/out": 1000}
    for folder, uid in passwds.items():
        folder.mkdir(parents=True)
        if is_inside or uid == 666:
            (folder / "passwd").write_text(f"node:x:{uid}:{uid}::/:/bin/sh\n")
    volume = try_one(world, accounts=root, status=0 if is_inside else 1).volume("seen")
    if is_inside:
        assert owner(world / "seen") == (1000, 1000)
    else:
        assert volume["reason"] == "no-user"


@pytest.mark.parametrize("leads_to", ["/etc/passwd", "passwd", "/proc/self/root/mnt/out"])
def test_a_link_that_leads_nowhere_fails_its_volume_alone(world: World, leads_to: str) -> None:
    root = world.rootfs("")
    (world / "out").write_text(NODE)
    (root / "proc").mkdir()
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(leads_to)
    result = try_one(world, accounts=root, status=1)
    assert result.volume("seen")["state"] == "failed"
    assert f"{root}/etc/passwd" in result.volume("seen")["error"]["message"]
    assert result.volume("beside")["state"] == "mounted"


def make_odd(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    match kind:
        case "a FIFO":
            os.mkfifo(path, 0o644)
        case "a folder":
            path.mkdir()
        case "larger":
            path.write_text(NODE)
            os.truncate(path, 1 << 40)


@pytest.mark.fault(18, "as passwd and group")
@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("kind", ["a FIFO", "a folder", "larger"])
def test_what_is_no_readable_file_fails_its_volume_alone(
    world: World, kind: str, name: str
) -> None:
    root = world.rootfs(NODE, "staff:x:50:\n")
    make_odd(root / "etc" / name, kind)
    result = try_one(world, accounts=root, user="node:staff", status=1)
    assert result.volume("beside")["state"] == "mounted"
    volume = result.volume("seen")
    assert volume["state"] == "failed"
    assert f"{root}/etc/{name} is {kind}" in volume["error"]["message"]


def cover(world: World, name: str, content: str, *, mode: int = 0o644, of: int = 0) -> Path:
    """Make this the machine's own /etc/NAME, as far as this test sees."""
    file = world / name
    file.write_text(content)
    os.chown(file, of, of)
    file.chmod(mode)
    run("mount", "--bind", str(file), f"/etc/{name}")
    return file


def test_without_accounts_the_machines_own_files_count(world: World) -> None:
    cover(world, "passwd", NODE)
    cover(world, "group", "staff:x:50:\n")
    try_one(world, user="node:staff")
    assert owner(world / "seen") == (1000, 50)
    cover(world, "passwd", "")
    volume = try_one(world, status=1).volume("seen")
    assert volume["reason"] == "no-user"
    assert "useradd node" in volume["error"]["hint"]


@pytest.mark.parametrize("kind", ["a FIFO", "larger"])
def test_an_odd_file_of_the_machines_own_fails_its_volume_alone(world: World, kind: str) -> None:
    make_odd(world / "odd", kind)
    run("mount", "--bind", str(world / "odd"), "/etc/passwd")
    result = try_one(world, status=1)
    assert result.volume("beside")["state"] == "mounted"
    assert result.volume("seen")["state"] == "failed"
    assert f"/etc/passwd is {kind}" in result.volume("seen")["error"]["message"]


WRITABLE = [
    ("passwd", "node", 0o666, 0),
    ("passwd", "node", 0o664, 1000),
    ("passwd", "node", 0o644, 1000),
    ("passwd", "node", 0o600, 1000),
    ("passwd", "1000", 0o646, 0),
    ("group", "1000:staff", 0o666, 0),
    ("group", "1000:staff", 0o644, 50),
]


@pytest.mark.fault(21, "passwd and group")
@pytest.mark.parametrize(("name", "user", "mode", "of"), WRITABLE)
def test_an_account_file_of_this_machine_that_others_can_write_is_not_believed(
    world: World, name: str, user: str, mode: int, of: int
) -> None:
    cover(world, name, NODE if name == "passwd" else "staff:x:50:\n", mode=mode, of=of)
    result = try_one(world, user=user, status=1)
    volume = result.volume("seen")
    assert (volume["state"], volume["reason"]) == ("failed", "unsafe-path")
    assert f"/etc/{name} " in volume["error"]["message"]
    assert result.volume("beside")["state"] == "mounted"
    assert not (world / "seen").exists()


def test_a_dry_run_tells_that_others_can_write_the_account_file(world: World) -> None:
    cover(world, "passwd", NODE, mode=0o666)
    world.volumes(seen={"source": world / "source", "target": world / "seen", "user": "node"})
    result = world.mountd("reconcile", "--dry-run")
    assert "/etc/passwd can be written by everyone" in result.out + result.err


@pytest.mark.parametrize("how", ["by group root", "by none, read-only", "in another root"])
def test_an_account_file_that_root_alone_can_write_is_believed(world: World, how: str) -> None:
    keys: dict[str, Any] = {}
    match how:
        case "by group root":
            cover(world, "passwd", NODE, mode=0o664)
        case "by none, read-only":
            cover(world, "passwd", NODE, mode=0o666)
            run("mount", "-o", "remount,bind,ro", "/etc/passwd")
        case _:
            keys = {"accounts": world.rootfs(NODE)}
            (world / "rootfs/etc/passwd").chmod(0o666)
    try_one(world, **keys)
    assert owner(world / "seen") == (1000, 1000)


@pytest.mark.parametrize(("mode", "of"), [(0o666, 0), (0o644, 1000)])
def test_a_writable_file_is_not_believed_because_it_is_mounted_in_a_read_only_folder(
    world: World, mode: int, of: int
) -> None:
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/etc")
    Path("/etc/passwd").touch()
    run("mount", "-o", "remount,bind,ro", "/etc")
    cover(world, "passwd", NODE, mode=mode, of=of)
    assert try_one(world, status=1).volume("seen")["reason"] == "unsafe-path"


@pytest.mark.parametrize("of", [0, 1000])
def test_the_machines_own_passwd_may_be_roots_link_and_no_one_elses(world: World, of: int) -> None:
    (world / "real").write_text(NODE)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/etc")
    Path("/etc/passwd").symlink_to(world / "real")
    os.lchown("/etc/passwd", of, of)
    volume = try_one(world, status=1 if of else 0).volume("seen")
    if of:
        assert (volume["state"], volume["reason"]) == ("failed", "unsafe-path")
        assert "/etc/passwd is a link" in volume["error"]["message"]
    else:
        assert owner(world / "seen") == (1000, 1000)


@pytest.mark.parametrize("of", [0, 1000])
def test_the_accounts_root_may_be_behind_roots_link_and_no_one_elses(world: World, of: int) -> None:
    root = world.rootfs(NODE)
    (world / "link").symlink_to(root)
    os.lchown(world / "link", of, of)
    volume = try_one(world, accounts=world / "link", status=1 if of else 0).volume("seen")
    if of:
        assert (volume["state"], volume["reason"]) == ("failed", "unsafe-path")
        assert f"{world / 'link'} is a link" in volume["error"]["message"]
    else:
        assert owner(world / "seen") == (1000, 1000)


def test_each_volume_has_the_accounts_of_its_own_root(world: World) -> None:
    first, second = world / "first", world / "second"
    for root, uid in ((first, 1000), (second, 1001)):
        (root / "etc").mkdir(parents=True)
        (root / "etc/passwd").write_text(f"node:x:{uid}:{uid}::/:/bin/sh\n")
    volumes = {
        name: {"source": world / "source", "target": world / name, "user": "node", "accounts": root}
        for name, root in (("one", first), ("two", second))
    }
    world.volumes(**volumes)
    world.reconcile()
    assert [owner(world / name) for name in ("one", "two")] == [(1000, 1000), (1001, 1001)]


# A file may be a user's, who makes of it what she likes.

HUGE: Mapping[str, bytes] = {
    "accounts": b"u:x:1:1\n" * (2 << 20),
    "colons": (b":" * 60 + b"\n") * (1 << 18),
    "one line": b"x" * (16 << 20),
    "a byte too many": b"#" * (1 << 20) + b"\n",
}


@pytest.mark.fault(9, "accounts without end")
@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_a_file_of_accounts_that_is_too_large_is_its_volumes_trouble_alone(
    world: World, content: bytes
) -> None:
    root = world.rootfs(content)
    source = world / "source"
    keys = {"source": source, "accounts": root}
    world.volumes(
        name={**keys, "target": world / "name", "user": "node"},
        uid={**keys, "target": world / "uid", "user": "1000"},
        ids={**keys, "target": world / "ids", "user": "1000:1000"},
        other={"source": source, "target": world / "other", "user": "1000:1000"},
    )
    result = world.reconcile(status=1)
    for name in ("name", "uid"):
        volume = result.volume(name)
        assert (volume["state"], volume["reason"]) == ("failed", "limit")
        assert volume["error"]["message"].startswith(f"{root}/etc/passwd is larger than 1 MiB")
        assert "give `user` as `uid:gid`" in volume["error"]["hint"]
    for name in ("ids", "other"):
        assert result.volume(name)["state"] == "mounted"


LINES = st.lists(
    st.lists(
        st.sampled_from(
            [b"a", b"b", b"#", b"", b"1", b"02", b"4294967295", b"x y", b"\xff", b"a,b"]
        ),
        max_size=5,
    ).map(b":".join),
    max_size=6,
).map(b"\n".join)


def _rows(content: bytes, numbers: tuple[int, ...]) -> list[list[bytes]]:
    """The well-formed lines, as passwd(5) and group(5) have them."""
    rows = [line.split(b":") for line in content.split(b"\n")]
    return [
        row
        for row in rows
        if row[0][:1] not in (b"", b"#")
        and len(row) > numbers[-1]
        and all(row[each].isdigit() and int(row[each]) < 4294967295 for each in numbers)
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LINES)
def test_whatever_the_lines_are_the_first_well_formed_one_counts(content: bytes) -> None:
    passwd, group = _rows(content, (2, 3)), _rows(content, (2,))
    for name in (b"a", b"b", b"#", b"1", b"x y", b"\xff"):
        ids = [(int(row[2]), int(row[3])) for row in passwd if row[0] == name]
        assert _Passwd(content).ids_of(name) == next(iter(ids), None)
        gids = [int(row[2]) for row in group if row[0] == name]
        assert _Group(content).id_of(name) == next(iter(gids), None)
        members = {int(row[2]) for row in group if len(row) > 3 and name in row[3].split(b",")}
        assert _Group(content).with_member({name}) == members
    for number in (1, 2):
        found = [row for row in passwd if int(row[2]) == number]
        assert [*_Passwd(content).names_of(number)] == [row[0] for row in found]
        assert _Passwd(content).group_of(number) == next((int(row[3]) for row in found), None)
        names = [row[0] for row in group if int(row[2]) == number]
        assert _Group(content).name_of(number) == next(iter(names), None)
