"""A manifest is of many files, each told apart: the search path, drop-ins, credentials, merged."""

import os
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_path import ETC, RUN, SERVICE, SYSTEM, USR, Files, Machine, volume
from world import World, owner, record_of

from mountd.core.nesting import circles, needs

NULL = "-> /dev/null"


@pytest.fixture
def machine(world: World) -> Machine:
    return Machine(world)


GIVEN = "/run/given"
A, B, C, D = map(volume, "abcd")
READ: Mapping[str, tuple[Files, list[str], str]] = {
    "the first place": ({ETC: A, RUN: B, USR: C}, [ETC], "a"),
    "the second place": ({RUN: B, USR: C}, [RUN], "b"),
    "the last place": ({USR: C}, [USR], "c"),
    "one without volumes hides": ({ETC: "version = 1", USR: C}, [ETC], ""),
    "a link to /dev/null hides": ({ETC: NULL, USR: C}, [ETC], ""),
    "drop-ins by name, whatever their place": (
        {f"{ETC}.d/30.toml": A, f"{RUN}.d/1.toml": B, f"{USR}.d/200.toml": C, USR: D},
        [USR, f"{RUN}.d/1.toml", f"{USR}.d/200.toml", f"{ETC}.d/30.toml"],
        "dbca",
    ),
    "a drop-in hides those of its name": (
        {f"{USR}.d/x.toml": A, f"{RUN}.d/x.toml": B, f"{ETC}.d/x.toml": C, f"{USR}.d/y.toml": D},
        [f"{ETC}.d/x.toml", f"{USR}.d/y.toml"],
        "cd",
    ),
    "also where it is empty, or a link to /dev/null": (
        {
            f"{USR}.d/x.toml": A,
            f"{RUN}.d/x.toml": "",
            f"{USR}.d/y.toml": B,
            f"{ETC}.d/y.toml": NULL,
        },
        [f"{RUN}.d/x.toml", f"{ETC}.d/y.toml"],
        "",
    ),
    "names in byte order": (
        {f"{ETC}.d/é.toml": A, f"{ETC}.d/Z.toml": B, f"{ETC}.d/a.toml": C},
        [f"{ETC}.d/Z.toml", f"{ETC}.d/a.toml", f"{ETC}.d/é.toml"],
        "bca",
    ),
    "what editors leave is none": (
        {ETC: A, f"{ETC}.d/.#b.toml": "-> gone", f"{ETC}.d/c.toml~": C, f"{ETC}.d/d": D},
        [ETC],
        "a",
    ),
    "credentials last, the main one first": (
        {
            f"{SERVICE}/mountd.a.toml": A,
            f"{SERVICE}/mountd.toml": B,
            f"{SERVICE}/other.toml": C,
            f"{ETC}.d/z.toml": D,
        },
        [f"{ETC}.d/z.toml", f"{SERVICE}/mountd.toml", f"{SERVICE}/mountd.a.toml"],
        "dba",
    ),
    "the unit's credentials before the system's": (
        {f"{SERVICE}/mountd.toml": A, f"{SYSTEM}/mountd.toml": B},
        [f"{SERVICE}/mountd.toml"],
        "a",
    ),
    "the system's credentials": ({f"{SYSTEM}/mountd.x.toml": B}, [f"{SYSTEM}/mountd.x.toml"], "b"),
    "$CREDENTIALS_DIRECTORY before all": (
        {f"{GIVEN}/mountd.toml": A, f"{SERVICE}/mountd.toml": B},
        [f"{GIVEN}/mountd.toml"],
        "a",
    ),
    "the first folder that exists, though it holds none of ours": (
        {f"{SERVICE}/other": "", f"{SYSTEM}/mountd.toml": B, ETC: A},
        [ETC],
        "a",
    ),
}


@pytest.mark.parametrize(("files", "read", "names"), READ.values(), ids=READ)
def test_which_files_are_read_and_in_which_order(
    machine: Machine, files: Files, read: list[str], names: str
) -> None:
    machine.folder("source")
    machine.put(files)
    document = machine.command(
        "reconcile", "-n", "--json", env={"CREDENTIALS_DIRECTORY": f"{GIVEN}/"}
    ).document
    assert document["manifest"] == read
    assert [each["name"] for each in document["volumes"]] == [*names]
    assert document["errors"] == []


def test_a_named_file_has_its_own_drop_ins_and_nothing_else(machine: Machine) -> None:
    machine.folder("source")
    other = "/etc/other.toml"
    machine.put({ETC: A, f"{ETC}.d/b.toml": B, f"{SERVICE}/mountd.toml": B})
    machine.put({other: C, f"{other}.d/d.toml": D})
    found = machine.mountd("check", "--json", "-f", other).document
    assert found["manifest"] == [other, f"{other}.d/d.toml"]
    os.unlink(other)
    assert machine.mountd("check", "--json", "-f", other).document["manifest"] == [
        f"{other}.d/d.toml"
    ]
    by_name = machine.mountd("check", "--json", "-f", ETC).document
    assert by_name["manifest"] == [ETC, f"{ETC}.d/b.toml", f"{SERVICE}/mountd.toml"]


def test_missing_is_not_empty_and_says_where_it_looked(machine: Machine) -> None:
    machine.folder("source")
    machine.put({ETC: A})
    machine.command("reconcile")
    os.unlink(ETC)
    for command in ("reconcile", "check", "status"):
        result = machine.command(command)
        assert result.status == 78
        assert all(each in result.err for each in (ETC, RUN, USR, "mountd.toml.d", "credential"))
    assert (machine / "a/hello").exists()
    machine.put({f"{RUN}.d/b.toml": "# a drop-in alone is a manifest"})
    assert machine.command("reconcile").status == 0
    assert not (machine / "a/hello").exists()


def test_a_pass_unmounts_what_came_from_its_own_manifest_wherever_the_main_file_is(
    machine: Machine,
) -> None:
    machine.folder("source")
    machine.put({"/etc/other.toml": C, USR: A, f"{SERVICE}/mountd.toml": B})
    machine.mountd("reconcile", "-f", "/etc/other.toml")
    assert machine.command("reconcile").status == 0
    assert {each["volume"]: each["manifest"] for each in record_of(machine)} == {
        "a": ETC,
        "b": ETC,
        "c": "/etc/other.toml",
    }
    os.unlink(USR)
    machine.put({ETC: A})
    assert "nothing to do" in machine.command("reconcile").out
    os.unlink(f"{SERVICE}/mountd.toml")
    machine.command("reconcile")
    assert [each["volume"] for each in record_of(machine)] == ["c", "a"]
    machine.put({f"{RUN}.d/broken.toml": "="})
    assert machine.command("unmount", "--all").status == 0
    assert [each["volume"] for each in record_of(machine)] == ["c"]


def test_tables_merge_key_by_key_and_a_value_is_replaced_whole(machine: Machine) -> None:
    machine.folder("source", owner=(501, 20))
    extents = "idmap = {{ {0} = [{{ stored = 501, seen = {1}, count = 1 }}] }}".format
    machine.put(
        {
            ETC: '[defaults]\nuser = "1:1"\nread_only = true\n'
            + volume("work", 'user = "2:2"')
            + volume("by-default")
            + volume("extents", extents("uids", 7), "read_only = false")
            + volume("off"),
            f"{ETC}.d/1.toml": '[defaults]\nidmap = "always"\n[volumes.work]\nuser = "3:3"\n'
            "[volumes.off]\nenabled = false\n",
            f"{ETC}.d/2.toml": "[volumes.work]\nread_only = false\n"
            "[volumes.extents]\nidmap = { gids = [{ stored = 20, seen = 8, count = 1 }] }\n",
        }
    )
    assert machine.command("reconcile").status == 0
    assert owner(machine / "work") == (3, 3)
    assert owner(machine / "by-default") == (1, 1)
    assert owner(machine / "extents") == (501, 8)
    assert not (machine / "off").exists()
    (machine / "work/new").touch()
    with pytest.raises(OSError, match="Read-only"):
        (machine / "by-default/new").touch()


# Each error points into its own file.

ONE, TWO = f"{ETC}.d/1.toml", f"{ETC}.d/2.toml"
WRONG: Mapping[str, tuple[Files, list[str]]] = {
    "a drop-in that is no TOML": (
        {ETC: A, ONE: "\na = = 1"},
        [f"{ONE}:2:5: error: not TOML"],
    ),
    "every error of every file, by file and line": (
        {ETC: "zzz = 1\n" + A, ONE: "version = 2\n[volumes.a]\nusr = 1\n", TWO: "x"},
        [
            f"{ETC}:1:1: error: unknown key `zzz`",
            f"{ONE}:1:11: error: `version`",
            f"{ONE}:3:1: error: unknown key `volumes.a.usr`",
            f"{TWO}:1:1: error: not TOML",
        ],
    ),
    "a wrong value that another hides": (
        {ETC: A + "create = 1\n", ONE: "[volumes.a]\ncreate = true\n"},
        [f"{ETC}:4:10: error: `volumes.a.create` must be true or false"],
    ),
    "an incomplete volume": (
        {ETC: A, ONE: "\n[volumes.b]\nuser = 1\n", TWO: '[volumes.b]\ntarget = "/b"\n'},
        [f"{ONE}:2:1: error: `volumes.b.source` is missing; read were {ETC}, {ONE}, {TWO}\n"],
    ),
    "one target twice": (
        {ETC: A + B, TWO: '[volumes.b]\ntarget = "/mnt/./a"\n'},
        [
            f"{TWO}:2:10: error: `volumes.b.target` is /mnt/a, as `volumes.a.target` is\n",
            f"which is in {ETC}, line 3\n",
        ],
    ),
    "a source below a target that is elsewhere": (
        {ETC: A, ONE: '[volumes.a]\nsource = "/mnt/a/x"\n'},
        [f"{ONE}:2:10: error: `volumes.a.source` lies below its own target"],
    ),
    "user beside extents of another file": (
        {
            ETC: A + "idmap = { uids = [{ stored = 1, seen = 2, count = 1 }] }\n",
            ONE: "[volumes.a]\nuser = 1\n",
        },
        [f"{ONE}:2:1: error: `volumes.a.user` can't stand", f"the extents are in {ETC}, line 4\n"],
    ),
    "options for a volume that has no type": (
        {ETC: A + B, ONE: '[defaults]\noptions = ["ro"]\n', TWO: "[volumes.b]\noptions = []\n"},
        [f"{ONE}:2:1: error: `defaults.options` goes with `type`, which volume `a` doesn't have"],
    ),
    "a source that is no path, for want of the type": (
        {ETC: '[volumes.a]\nsource = "tag"\n', ONE: '[volumes.a]\ntarget = "/mnt/a"\n'},
        [f"{ETC}:2:10: error: `volumes.a.source` must be an absolute path, not `tag`"],
    ),
    "a circle through files": (
        {
            ETC: '[volumes.a]\nsource = "/mnt/b/x"\ntarget = "/mnt/a"\n',
            ONE: '[volumes.b]\nsource = "/mnt/a/y"\ntarget = "/mnt/b"\n',
        },
        [f"{ETC}:1:1: error: volumes need each other in a circle: `a`, `b`, `a`\n"],
    ),
    "a drop-in too large": ({ETC: A, ONE: "#" * ((1 << 20) + 1)}, [f"{ONE}: error: it is larger"]),
    "a dangling drop-in": (
        {ETC: A, ONE: "-> gone"},
        [f"{ONE}: error: it is a link, and there is no {ETC}.d/gone"],
    ),
    "a folder as drop-in": ({ETC: A, f"{ONE}/x": ""}, [f"{ONE}: error: it is a folder"]),
    "a file as the folder": ({ETC: A, f"{ETC}.d": ""}, [f"{ETC}.d: error: the drop-ins in it"]),
    "a credential": ({f"{SYSTEM}/mountd.toml": "x"}, [f"{SYSTEM}/mountd.toml:1:1: error: not"]),
}


@pytest.mark.parametrize(("files", "told"), WRONG.values(), ids=WRONG)
def test_an_error_points_into_its_own_file_and_nothing_changes(
    machine: Machine, files: Files, told: list[str]
) -> None:
    machine.put(files)
    result = machine.command("reconcile")
    assert result.status == 78
    at = 0
    for each in told:
        assert each in result.err[at:], result.err
        at = result.err.index(each, at) + len(each)
    assert result.err.count(": error: ") == sum(": error: " in each for each in told), result.err
    assert not os.path.exists(f"{machine.state}/record.json")


@pytest.mark.fault(18, "as a drop-in")
def test_a_fifo_as_drop_in_is_told_and_not_waited_for(machine: Machine) -> None:
    machine.put({ETC: "version = 1"})
    os.mkdir(f"{ETC}.d")
    os.mkfifo(ONE)
    assert machine.command("check").err.startswith(f"{ONE}: error: it is a FIFO")


@pytest.mark.parametrize("loose", [ONE, f"{ETC}.d", f"{SERVICE}/mountd.toml", SERVICE])
def test_what_others_could_write_is_refused_where_root_would_act_and_else_warned_of(
    machine: Machine, loose: str
) -> None:
    machine.put({ETC: "version = 1", ONE: "", f"{SERVICE}/mountd.toml": ""})
    os.chmod(loose, 0o777)
    file = SERVICE + "/mountd.toml" if SERVICE in loose else ONE
    acting, looking = machine.command("reconcile"), machine.command("check")
    assert acting.status == 78 and acting.err.startswith(f"{file}: error: {file}")
    assert looking.status == 0 and f"warning: {file}" in looking.err


def unreadable(folder: str) -> None:
    os.unlink(f"{folder}/mountd.toml")
    os.symlink("/proc/self/mem", f"{folder}/mountd.toml")  # reading its first byte is EIO


def unlistable(folder: str) -> None:
    os.rename(folder, f"{folder}-was")
    Path(folder).touch()


@pytest.mark.parametrize("spoil", [unreadable, unlistable])
def test_credentials_that_cant_be_read_unmount_nothing_and_are_told(
    machine: Machine, spoil: Callable[[str], None]
) -> None:
    machine.folder("source")
    machine.put({f"{SYSTEM}/mountd.toml": A, ETC: B})
    assert machine.command("reconcile").status == 0
    spoil(SYSTEM)
    machine.put(
        {ETC: "version = 1", ONE: "[volumes.a]\nnoexec = true\n"}
    )  # whose source is in a credential
    result = machine.command("reconcile")
    assert result.status == 0
    assert f"{SYSTEM}" in result.err and "so nothing is unmounted in this pass" in result.err
    assert (machine / "a/hello").exists() and (machine / "b/hello").exists()


@pytest.mark.parametrize(
    ("files", "target"),
    [
        ({}, "/run/mountd.toml"),
        ({}, "/usr/lib/mountd.toml.d/"),
        ({f"{SYSTEM}/mountd.toml": ""}, SYSTEM),
        ({f"{SYSTEM}/mountd.toml": ""}, "/run/credentials"),
        ({"/mnt/conf/in/x": "", f"{ETC}.d/x.toml": "-> /mnt/conf/in/x"}, "/mnt/conf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_target_covers_what_the_manifest_consists_of(
    machine: Machine, files: Files, target: str
) -> None:
    machine.put(files)
    machine.put({ETC: f'[volumes.a]\nsource = "/srv"\ntarget = "{target}"\n'})
    result = machine.command("reconcile")
    assert result.status == 78
    assert f"must not be {target.rstrip('/')}: it is " in result.err


# What needs what.

_PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda x: "/" + "/".join(x))
_PLACES = st.dictionaries(
    st.sampled_from("stuvwxyz"),
    st.tuples(st.lists(_PATHS, max_size=3).map(tuple), _PATHS),
    max_size=8,
).filter(lambda places: len({target for _, target in places.values()}) == len(places))


@given(_PLACES)
def test_a_volume_needs_those_whose_targets_its_sources_or_its_target_lie_below(
    places: dict[str, tuple[tuple[str, ...], str]],
) -> None:
    for name, others in needs(places).items():
        sources, target = places[name]
        assert len(set(others)) == len(others)
        assert set(others) == {
            other
            for other, (_, above) in places.items()
            if other != name
            and any(f"{path}/".startswith(f"{above}/") for path in (*sources, target))
        }


@given(_PLACES)
def test_a_circle_is_found_where_there_is_one(
    places: dict[str, tuple[tuple[str, ...], str]],
) -> None:
    needed = needs(places)
    found = next(circles(needed), None)
    try:
        TopologicalSorter(needed).prepare()
    except CycleError:
        assert found
    else:
        assert not found
    members = [name for names in circles(needed) for name in names]
    assert len(set(members)) == len(members)
    for names in circles(needed):
        assert all(b in needed[a] for a, b in zip(names, names[1:] + names[:1], strict=True))


def test_a_chain_as_long_as_a_manifest_is_no_circle_until_it_is_closed() -> None:
    chain = {str(i): ((f"/t/{i + 1}",), f"/t/{i}") for i in range(20_000)}
    assert not any(circles(needs(chain)))
    (found,) = circles(needs({**chain, "last": (("/t/0",), "/t/20000")}))
    assert len(found) == 20_001
