"""Which idmapping a volume gets, as its mount and the mount table show it."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from world import Result, World, acting_as, owner, run

from mountd.core.choice import Choice, Root, chosen_idmap, shown_owner, stored_owner
from mountd.core.idmapping import IDENTITY, Extent, Extents, Idmapping, seen_as, swap
from mountd.core.model import Fault, Ids, Refused, User, Volume

SWAPPED = (1000, 1000)
EXTENTS = "{ uids = [{ stored = 501, seen = 7, count = 1 }, { stored = 0, seen = 0, count = 1 }] }"


def is_idmapped(world: World, name: str) -> bool:
    """Whether the kernel says of the one mount at this target that it is idmapped."""
    (mount,) = [each for each in world.mounts() if each.point == str(world / name)]
    return "idmapped" in mount.options


def mount_one(world: World, *, status: int = 0, **keys: Any) -> Result:
    """Mount `source` at `seen`, with names looked up where there are none."""
    world.rootfs("")
    table = {"source": world / "source", "target": world / "seen", "accounts": world / "rootfs"}
    world.volumes(seen=table | keys)
    return world.reconcile(status=status)


def cover_passwd(world: World, passwd: str) -> None:
    """Make this the machine's /etc/passwd, as far as this test sees."""
    (world / "passwd").write_text(passwd)
    run("mount", "--bind", str(world / "passwd"), "/etc/passwd")


SEEN_AS: list[tuple[dict[str, Any], tuple[int, int] | None]] = [
    ({}, None),
    ({"owner": "1:1"}, None),
    ({"idmap": "always"}, None),
    ({"user": "1000:1000", "idmap": "never"}, None),
    ({"user": "501:20"}, None),
    ({"user": "501"}, None),  # no account, so no group: gids stay anyway
    ({"user": "1000:1000", "owner": "1000:1000"}, None),
    ({"user": "1000:1000"}, (1000, 1000)),
    ({"user": "1000:20"}, (1000, 20)),
    ({"user": "501:1000"}, (501, 1000)),
    ({"user": "1000"}, (1000, 20)),
    ({"user": "501:20", "idmap": "always"}, (501, 20)),
    ({"user": "501", "idmap": "always"}, (501, 20)),
    ({"user": "1000:1000", "idmap": "always"}, (1000, 1000)),
    ({"user": "1000:1000", "owner": "600:600"}, (501, 20)),
    ({"user": "501:20", "owner": "600:600"}, (600, 600)),
]


def test_a_mount_is_idmapped_where_owner_and_user_differ(world: World) -> None:
    """Whoever is None in the list sees the source as it is, and no idmapping in the mount table."""
    table = {"source": world.folder("source", owner=(501, 20)), "accounts": world.rootfs("")}
    names = {f"v{number}": each for number, each in enumerate(SEEN_AS)}
    world.volumes(
        **{name: {**table, "target": world / name, **keys} for name, (keys, _) in names.items()}
    )
    world.reconcile()
    found = [
        (keys, owner(world / f"{name}/hello") if is_idmapped(world, name) else None)
        for name, (keys, _) in names.items()
    ]
    assert found == SEEN_AS
    for name, (_, seen) in names.items():
        assert owner(world / name) == owner(world / f"{name}/hello") == (seen or (501, 20))


def test_a_written_owner_counts_rather_than_who_owns_the_root(world: World) -> None:
    source = world.folder("source", owner=(600, 600))
    os.chown(source / "hello", 501, 20)
    mount_one(world, user="1000:1000", owner="501:20")
    assert owner(world / "seen") == (600, 600)
    assert owner(world / "seen/hello") == SWAPPED


def make_read_only(how: str, path: Path) -> dict[str, Any]:
    """Make a mount's volumes read-only in one of the ways there are; the keys that this needs."""
    match how:
        case "by key":
            return {"read_only": True}
        case "by the mount":
            run("mount", "-o", "remount,bind,ro", str(path))
        case "by the filesystem":
            run("mount", "-o", "remount,ro", str(path))
            run("mount", "-o", "remount,bind,rw", str(path))
    return {}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_auto_leaves_a_read_only_volume_alone_just_where_its_user_may_read_it(
    world: World, kind: str
) -> None:
    users = {"same-uid": "501:1000", "same-gid": "1000:20", "other": "1000:1000", "root": "0:0"}
    volumes: dict[str, dict[str, Any]] = {}
    readable = set()
    (world / "sources").mkdir()
    for bits, (who, user) in product(product("0145", repeat=3), users.items()):
        name = f"{who}-{''.join(bits)}"
        source = world / f"sources/{name}"
        source.mkdir() if kind == "folder" else source.touch()
        if kind == "folder":
            (source / "hello").touch()
        os.chown(source, 501, 20)
        source.chmod(int("".join(bits), 8))
        volumes[name] = {"source": source, "target": world / f"seen/{name}", "user": user}
        if may_read(source, user):
            readable.add(name)
    keys = {"owner": "501:20", "read_only": True}
    world.volumes(**{name: table | keys for name, table in volumes.items()})
    world.reconcile()
    assert {name for name in volumes if not is_idmapped(world, f"seen/{name}")} == readable


def may_read(path: Path, user: str) -> bool:
    """Whether the mode bits let this user read a file, or read and search a folder."""
    uid, gid = map(int, user.split(":"))
    nobody = 60000  # root's privilege is no mode bit, so ask for somebody in its place
    try:
        with acting_as(uid or nobody, gid or nobody):
            if path.is_dir():
                os.listdir(path)
                os.stat(path / "hello")
            else:
                path.read_bytes()
    except PermissionError:
        return False
    return True


def test_a_written_owner_gives_nobody_leave_to_read_what_the_roots_own_bits_do_not(
    world: World,
) -> None:
    world.folder("source", owner=(501, 20), mode=0o750)
    mount_one(world, user="1000:600", owner="501:600", read_only=True)
    with acting_as(1000, 600):
        assert os.listdir(world / "seen") == ["hello"]


@pytest.mark.parametrize(
    ("how", "keys", "is_swapped"),
    [
        ("not", {}, True),
        ("by key", {}, False),
        ("by key", {"idmap": "always"}, True),
        ("by the mount", {}, False),
        ("by the mount", {"read_only": False}, True),
        ("by the filesystem", {"read_only": False}, False),
        ("by the filesystem", {"idmap": "always"}, True),
    ],
)
def test_a_volume_is_read_only_by_its_key_else_as_its_source(
    world: World, how: str, keys: dict[str, Any], *, is_swapped: bool
) -> None:
    path = world / "filesystem"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(path))
    world.folder("filesystem/source", owner=(501, 20))
    keys = {"user": "1000:1000", **make_read_only(how, path), **keys}
    mount_one(world, source=path / "source", **keys)
    assert owner(world / "seen/hello") == (SWAPPED if is_swapped else (501, 20))


def test_extents_are_taken_as_written_whoever_owns_the_source(world: World) -> None:
    source = world.folder("source", owner=(501, 20))
    (source / "root").touch()
    (source / "other").touch()
    os.chown(source / "other", 502, 502)
    table = {"uids": [{"stored": 501, "seen": 7, "count": 1}, {"stored": 0, "seen": 9, "count": 1}]}
    result = mount_one(world, idmap=table, read_only=True)
    seen = {name: owner(world / "seen" / name) for name in ("hello", "root", "other")}
    assert seen == {"hello": (7, 20), "root": (9, 0), "other": (65534, 502)}
    assert any("65534" in note for note in result.volume("seen")["notes"])


def test_extents_that_leave_no_id_out_need_no_note(world: World) -> None:
    world.folder("source", owner=(501, 20))
    halves = [(0, 2**31, 2**31 - 1), (2**31 - 1, 0, 2**31)]
    table = [dict(zip(("stored", "seen", "count"), each, strict=True)) for each in halves]
    result = mount_one(world, idmap={"uids": table})
    assert owner(world / "seen") == (501 + 2**31, 20)
    assert not any("65534" in note for note in result.volume("seen")["notes"])


@pytest.mark.parametrize(
    ("defaults", "volume", "seen"),
    [
        (f"idmap = {EXTENTS}", "", (7, 20)),
        (f"idmap = {EXTENTS}", 'user = "1000:1000"', SWAPPED),
        (f"idmap = {EXTENTS}", 'idmap = "never"', (501, 20)),
        (f"idmap = {EXTENTS}", 'user = "1000:1000"\nidmap = "never"', (501, 20)),
        (f"idmap = {EXTENTS}", 'user = "1000:1000"\nidmap = "always"', SWAPPED),
        ('user = "1000:1000"', "", SWAPPED),
        ('user = "1000:1000"', f"idmap = {EXTENTS}", (7, 20)),
        ('user = "ghost"', f"idmap = {EXTENTS}", (7, 20)),  # nor is it waited for
        ('user = "1000:1000"', 'user = "1001:1001"', (1001, 1001)),
        ('user = "1000:1000"', 'idmap = "never"', (501, 20)),
        ('user = "1000:1000"\nidmap = "never"', "", (501, 20)),
        ('user = "1000:1000"\nidmap = "never"', f"idmap = {EXTENTS}", (7, 20)),
        ('idmap = "never"', 'user = "1000:1000"', (501, 20)),
        ('idmap = "never"', 'user = "1000:1000"\nidmap = "auto"', SWAPPED),
    ],
)
def test_user_and_extents_displace_each_other_and_the_volumes_own_wins(
    world: World, defaults: str, volume: str, seen: tuple[int, int]
) -> None:
    world.folder("source", owner=(501, 20))
    paths = 'source = "$/source"\ntarget = "$/seen"'
    world.write(f"[defaults]\n{defaults}\n[volumes.seen]\n{paths}\n{volume}\n")
    world.reconcile()
    assert owner(world / "seen") == seen


@pytest.mark.parametrize("table", ["defaults", "volumes.seen"])
def test_user_beside_extents_in_one_table_is_an_error(world: World, table: str) -> None:
    world.folder("source", owner=(501, 20))
    both = f'[{table}]\nuser = "1000:1000"\nidmap = {EXTENTS}\n'
    paths = 'source = "$/source"\ntarget = "$/seen"\n'
    world.write(both + paths if table != "defaults" else f"{both}[volumes.seen]\n{paths}")
    result = world.mountd("reconcile")
    assert result.status == 78
    assert f"{table}.user" in result.err
    assert world.mounts() == []


ROOT_OWNED: list[dict[str, Any]] = [
    {"source": (0, 0), "user": "1000:1000"},
    {"source": (0, 20), "user": "1000:20"},
    {"source": (501, 20), "user": "0:0"},
    {"source": (501, 20), "user": "0"},
    {"source": (0, 0), "user": "1000:1000", "idmap": "always"},
    {"source": (0, 0), "user": "1000:1000", "nosuid": True},
]


@pytest.mark.parametrize("keys", ROOT_OWNED, ids=str)
def test_a_swap_with_root_is_refused_and_the_hint_names_the_ways_out(
    world: World, keys: dict[str, Any]
) -> None:
    cover_passwd(world, "root:x:0:0::/root:/bin/sh\nsam:x:501:20::/:/bin/sh\n")
    world.folder("source", owner=keys["source"])
    keys = {key: value for key, value in keys.items() if key != "source"}
    volume = mount_one(world, **keys, status=1).volume("seen")
    assert (volume["state"], volume["reason"]) == ("failed", "root-owned")
    assert world.mounts() == []
    for way in ("nosuid", "read_only", "owner"):
        assert way in volume["error"]["hint"]
    dry = world.reconcile("--dry-run", status=1).volume("seen")
    assert (dry["state"], dry["error"]) == ("failed", volume["error"])


@pytest.mark.parametrize("way", ["nosuid source", "read_only", "read-only source", "owner"])
def test_a_swap_with_root_is_made_where_no_setuid_file_can_come_of_it_or_the_owner_is_written(
    world: World, way: str
) -> None:
    cover_passwd(world, "root:x:0:0::/root:/bin/sh\nsam:x:501:20::/:/bin/sh\n")
    path = world / "filesystem"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(path))
    volumes: dict[str, dict[str, Any]] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for number, keys in enumerate(ROOT_OWNED[:4]):
        name = f"v{number}"
        uid, gid = keys["source"]
        source = world.folder(f"filesystem/{name}", owner=(uid, gid), mode=0o700)
        places = {"source": source, "target": world / name, "accounts": world.rootfs("")}
        volumes[name] = {**keys, **places}
        if way == "read_only":
            volumes[name]["read_only"] = True
        elif way == "owner":
            volumes[name]["owner"] = f"{uid}:{gid}"
        seen_uid, *seen_gid = map(int, keys["user"].split(":"))
        wanted[name] = (seen_uid, *(seen_gid or [gid]))
    if way == "nosuid source":
        run("mount", "-o", "remount,bind,nosuid", str(path))
    elif way == "read-only source":
        make_read_only("by the mount", path)
    world.volumes(**volumes)
    world.reconcile()
    assert {name: owner(world / name) for name in volumes} == wanted


@pytest.mark.parametrize(
    ("here", "in_accounts", "is_mounted"),
    [
        ("sam:x:501:20::/:\n", "", False),
        ("", "sam:x:501:20::/:\n", True),
        ("someone:x:5010:501::/:\n", "", True),
    ],
)
def test_root_may_be_the_user_where_this_machine_has_no_account_of_the_owner(
    world: World, here: str, in_accounts: str, *, is_mounted: bool
) -> None:
    cover_passwd(world, f"root:x:0:0::/root:/bin/sh\n{here}")
    world.folder("source", owner=(501, 20))
    accounts = world.rootfs(f"root:x:0:0::/root:/bin/sh\n{in_accounts}")
    keys = {"source": world / "source", "target": world / "seen"}
    world.volumes(seen={**keys, "user": "root", "accounts": accounts})
    result = world.reconcile(status=0 if is_mounted else 1)
    assert result.volume("seen")["reason"] == (None if is_mounted else "root-owned")
    assert (world / "seen").exists() == is_mounted
    if is_mounted:
        assert owner(world / "seen") == (0, 0)


def test_what_is_not_the_owner_may_be_an_account_where_root_is_the_owner(world: World) -> None:
    """No account of the user's uid makes no difference: it is the owner who must not be here."""
    cover_passwd(world, "root:x:0:0::/root:/bin/sh\n")
    world.folder("source", owner=(0, 0))
    assert mount_one(world, user="1000:1000", status=1).volume("seen")["reason"] == "root-owned"


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ((0, 0), {}),
        ((0, 0), {"user": "0:0"}),
        ((0, 0), {"user": "0:0", "idmap": "always"}),
        ((0, 20), {"user": "0:1000"}),
        ((0, 0), {"user": "1000:1000", "idmap": "never"}),
        ((501, 20), {"user": "0:0", "idmap": "never"}),
        ((0, 0), {"idmap": {"uids": [{"stored": 0, "seen": 1000, "count": 1}]}}),
    ],
    ids=str,
)
def test_without_a_swap_of_roots_uid_nothing_is_refused(
    world: World, source: tuple[int, int], keys: dict[str, Any]
) -> None:
    world.folder("source", owner=source)
    cover_passwd(world, "sam:x:501:20::/:/bin/sh\n")
    mount_one(world, **keys)
    assert [each.point for each in world.mounts()] == [str(world / "seen")]


@pytest.mark.parametrize(
    ("source", "user", "group"),
    [
        ((501, 0), "1000:1000", "1000"),
        ((501, 20), "1000:0", "20"),
        ((501, 0), "1000:0", None),
        ((501, 0), "1000", None),
        ((501, 20), "1000:1000", None),
    ],
)
def test_a_swap_with_roots_group_gets_a_note(
    world: World, source: tuple[int, int], user: str, group: str | None
) -> None:
    world.folder("source", owner=source)
    notes = mount_one(world, user=user).volume("seen")["notes"]
    about_root = [note for note in notes if "root" in note]
    assert [f"group {group} " in note for note in about_root] == ([True] if group else [])


@pytest.fixture
def idmapped(world: World) -> World:
    """A mount that isn't of the test's manifest, in which 501:20 is seen as 600:600."""
    world.folder("stored", owner=(501, 20))
    other = World(world.path)
    other.manifest, other.state = f"{world.path}/other.toml", f"{world.path}/other-state"
    other.volumes(
        source={"source": world / "stored", "target": world / "source", "user": "600:600"}
    )
    other.reconcile()
    return world


@pytest.mark.parametrize("keys", [{}, {"user": "600:600"}, {"user": "1:1", "idmap": "never"}])
def test_without_an_idmapping_of_ours_the_sources_own_stays(
    idmapped: World, keys: dict[str, Any]
) -> None:
    mount_one(idmapped, **keys)
    assert owner(idmapped / "seen") == owner(idmapped / "seen/hello") == (600, 600)
    assert idmapped.reconcile().volume("seen")["action"] == "keep"


# as functions of values ----------------------------------------------------------------------

EVERY_ID = Idmapping(IDENTITY, IDENTITY)
CONTAINER: Extents = (Extent(0, 0, 2000), Extent(100000, 100000, 10))
STORED = Ids(501, 20)


def volume_of(**keys: Any) -> Volume:
    return Volume("v", "/s", "/t", **keys)


def root_of(
    idmap: Idmapping | None = None,
    *,
    stored: Ids = STORED,
    is_read_only: bool = False,
) -> Root:
    """A root as a mount with this idmapping shows it."""
    return Root(stored, shown_owner(stored, idmap), 0o40700, idmap, is_read_only)


def both(one: int, other: int) -> Idmapping:
    """The swap of these two, for uids and gids."""
    return Idmapping(swap(one, other), swap(one, other))


THROUGH = Idmapping(swap(501, 600), swap(20, 600))
SHIFTED = Idmapping((Extent(0, 100000, 1000),), (Extent(0, 100000, 1000),))


@pytest.mark.parametrize("source", [THROUGH, SHIFTED], ids=["swapped", "shifted"])
@pytest.mark.parametrize("user", [User(1000, 1000), User(0, 0), User(501, 20), User(1000, None)])
@pytest.mark.parametrize("stored", [0, 20, 501, 600, 999])
def test_a_swap_over_an_idmapped_source_exchanges_what_is_seen_through_it(
    source: Idmapping, user: User, stored: int
) -> None:
    root = root_of(source)
    found = chosen_idmap(volume_of(idmap="always"), root, user, EVERY_ID)
    assert found
    sides = zip(source, found, root.seen, user, strict=True)
    for seen_through, extents, seen, wanted in sides:
        exchanged = {seen: seen if wanted is None else wanted, wanted: seen}
        between = seen_as(seen_through, stored)
        assert seen_as(extents, stored) == exchanged.get(between, between)


@pytest.mark.parametrize(
    ("keys", "user", "is_left"),
    [
        ({}, User(600, 600), True),
        ({}, User(600, None), True),
        ({}, User(501, 20), False),
        ({"owner": STORED}, User(600, 600), True),
        ({"owner": Ids(1, 1)}, User(600, 600), False),
        ({"owner": Ids(1, 1)}, User(1, 1), True),
        ({"idmap": "always"}, User(600, 600), False),
        ({"idmap": "never"}, User(501, 20), True),
        ({}, None, True),
    ],
)
def test_auto_compares_the_owner_as_seen_through_the_source(
    keys: dict[str, Any], user: User | None, *, is_left: bool
) -> None:
    found = chosen_idmap(volume_of(**keys), root_of(THROUGH), user, EVERY_ID)
    assert (found is None) == is_left


def test_a_written_owner_is_as_stored_and_not_composed() -> None:
    written = volume_of(owner=Ids(7, 7))
    assert chosen_idmap(written, root_of(THROUGH), User(1000, 1000), EVERY_ID) == both(7, 1000)


@pytest.mark.parametrize("source", [None, THROUGH])
def test_extents_are_not_composed_and_a_list_left_out_is_what_is_known(
    source: Idmapping | None,
) -> None:
    known = Idmapping(CONTAINER, CONTAINER)
    uids = (Extent(501, 7, 1),)
    volume = volume_of(idmap=Idmapping(uids, IDENTITY))
    assert chosen_idmap(volume, root_of(source), None, known) == Idmapping(uids, CONTAINER)


def test_inside_a_user_namespace_a_swap_holds_the_ids_that_are_known_and_no_other() -> None:
    known = Idmapping(CONTAINER, CONTAINER)
    found = chosen_idmap(volume_of(), root_of(), User(100003, 1000), known)
    assert found
    ids = (0, 501, 20, 1000, 1999, 2000, 99999, 100000, 100003, 100009, 100010)
    assert [seen_as(found.uids, each) for each in ids] == [
        0, 100003, 20, 1000, 1999, None, None, 100000, 501, 100009, None,
    ]  # fmt: skip
    assert [seen_as(found.gids, each) for each in (20, 1000, 2000)] == [1000, 20, None]


@pytest.mark.parametrize(
    ("stored", "user"),
    [
        (STORED, User(2000, 20)),
        (STORED, User(501, 100010)),
        (Ids(65534, 20), User(1000, 20)),
        (Ids(501, 65534), User(501, 1000)),
    ],
)
def test_an_id_that_the_user_namespace_does_not_know_cannot_be_swapped(
    stored: Ids, user: User
) -> None:
    known = Idmapping(CONTAINER, CONTAINER)
    with pytest.raises(ValueError, match="not known"):
        chosen_idmap(volume_of(), root_of(stored=stored), user, known)


def test_where_no_group_is_asked_for_one_that_is_not_known_does_no_harm() -> None:
    known = Idmapping(CONTAINER, CONTAINER)
    found = chosen_idmap(volume_of(), root_of(stored=Ids(501, 65534)), User(1000, None), known)
    assert found and found.gids == CONTAINER


@pytest.mark.parametrize("idmap", [None, THROUGH, both(0, 600)])
@pytest.mark.parametrize("uid", [0, 501, 600, 1000])
def test_whose_a_root_is_as_stored_is_told_from_what_its_mount_shows(
    idmap: Idmapping | None, uid: int
) -> None:
    assert stored_owner(shown_owner(Ids(uid, 20), idmap), idmap) == Ids(uid, 20)


def test_what_a_map_leaves_out_is_shown_as_the_overflow_id() -> None:
    assert shown_owner(Ids(1000, 999), SHIFTED) == Ids(65534, 100999)


@pytest.mark.parametrize("source", [None, THROUGH])
def test_raw_ids_are_those_of_the_sources_own_mount_and_say_what_was_wanted(
    source: Idmapping | None,
) -> None:
    seen, wanted = shown_owner(STORED, source), both(501, 1000)
    choice = Choice(wanted, "swap", STORED, Ids(1000, 1000), ("a note",))
    fault = Fault("failed", "filesystem-refuses", "it refuses")
    plain = choice.with_raw_ids(seen, fault)
    assert plain == Choice(None, "swap", STORED, seen, ("a note",), Refused(wanted, fault))
