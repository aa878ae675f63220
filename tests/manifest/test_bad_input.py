"""Whatever is wrong is told in a sentence, all of it at once, and changes nothing.

`golden/bad-input` holds wrong manifests, each beside what a person is told of it.
"""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from golden import GOLDEN
from package import PROJECT
from world import Mount, Result, World

from mountd.manifest.layers import find_layers
from mountd.manifest.load import load_manifest
from mountd.manifest.problem import ManifestError
from mountd.reconcile.reading import read_manifest

MANIFESTS = GOLDEN / "bad-input"
SUITE = PROJECT.parent / "shared/data/toml-test"
MIB = 1 << 20
"""From 2.4.1 on it takes no key of so many parts; what is refused before is the table of it."""


def snapshot(world: World) -> tuple[list[Mount], dict[str, tuple[bytes, int]]]:
    """All that a run could change: the mounts, and what the state directory holds."""
    state = Path(world.state)
    files = state.iterdir() if state.exists() else ()
    return world.mounts(), {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files
    }


def refused(world: World, content: bytes) -> Result:
    """A run with this manifest, which changes nothing of what a good one has made before it."""
    world.folder("source")
    world.volumes(good={"source": world / "source", "target": world / "target"})
    world.reconcile()
    before = snapshot(world)
    Path(world.manifest).write_bytes(content)
    result = world.reconcile(status=78)
    assert snapshot(world) == before
    assert_told(result, content)
    return result


def assert_told(result: Result, content: bytes) -> None:
    """Each error is in the document and on stderr alike, with its line and a caret below it."""
    document = result.document
    assert document["errors"] and not document["volumes"] and not document["changed"]
    told = result.err.splitlines()
    heads = [i for i, line in enumerate(told) if ": error: " in line]
    assert len(heads) == len(document["errors"])
    lines = content.decode(errors="replace").split("\n")
    for i, each in zip(heads, document["errors"], strict=True):
        place = f"{each['file']}:{each['line']}:{each['column']}"
        assert told[i] == f"{place}: error: {each['message']}"
        assert each["message"].isprintable(), "a terminal would obey it"
        number, _, shown = told[i + 1].partition(" | ")
        gutter, _, carets = told[i + 2].partition(" | ")
        assert int(number) == each["line"] and not gutter.strip()
        under, _, hint = carets.lstrip(" ").partition(" ")
        assert under.strip("^") == "" and under
        assert hint == (each["hint"] or "")
        line = lines[each["line"] - 1].rstrip("\r")
        assert 1 <= each["column"] <= len(line) + 1
        at = len(carets) - len(carets.lstrip(" "))
        pointed = line[each["column"] - 1 :][: len(under)]
        assert all(
            one == other or not one.isprintable() or one == "\t"
            for one, other in zip(pointed, shown[at:], strict=False)
        ), f"the caret is not below {pointed}"


@pytest.mark.parametrize("name", sorted(path.stem for path in MANIFESTS.glob("*.toml")))
def test_a_wrong_manifest(world: World, name: str, pytestconfig: pytest.Config) -> None:
    told = refused(world, (MANIFESTS / f"{name}.toml").read_bytes()).err
    golden = MANIFESTS / f"{name}.txt"
    if pytestconfig.getoption("update_golden"):
        golden.write_text(told)
    assert told == golden.read_text()


def extents(count: int, width: int) -> bytes:
    """A volume with so many extents, each id of so many digits."""
    first = 10 ** (width - 1)
    each = ", ".join(
        f"{{ stored = {first + i}, seen = {first + i}, count = 1 }}" for i in range(count)
    )
    return (
        '[volumes.a]\nsource = "/srv"\ntarget = "/data"\n'
        f"idmap = {{ uids = [{each}], gids = [{each}] }}\n"
    ).encode()


HEAD = b"version = 1\n\n[defaults]\n"
SYNTHETIC: Mapping[str, tuple[bytes, list[tuple[int, str]]]] = {
    "341 extents": (
        extents(341, 3),
        [(4, "has 341 extents; the kernel takes 340"), (4, "has 341 extents")],
    ),
    "1001 options": (
        b'[volumes.a]\nsource = "x"\ntarget = "/data"\ntype = "x"\noptions = ['
        + b'"a", ' * 1001
        + b"]\n",
        [(5, "`volumes.a.options` has 1001 options; 1000 at most are taken")],
    ),
    "a map beyond a page": (
        extents(200, 9),
        [(4, "is 4400 bytes long as the kernel reads it, which takes 4095"), (4, "4400 bytes")],
    ),
    "bytes that are not UTF-8": (HEAD + b'user = "\xc3\xa9\xff\xfe"\n', [(4, "0xff is not UTF-8")]),
    "a character cut short": (HEAD + b'user = "\xe2\x82', [(4, "0xe2 is not UTF-8")]),
    "UTF-16": ("version = 1\n".encode("utf-16"), [(1, "0xff is not UTF-8")]),
    "a NUL byte": (HEAD + b'user = "a\0b"\n', [(4, "there is U+0000 here")]),
    "only NUL bytes": (bytes(5000), [(1, "not TOML")]),
    "a binary": (bytes(range(256)) * 40, [(2, "0x80 is not UTF-8")]),
    "an integer of 5,000 digits": (HEAD + b"user = " + b"9" * 5000 + b"\n", [(4, "digits")]),
    "10,000 brackets": (HEAD + b"user = " + b"[" * 10000 + b"]" * 10000, [(4, "nested")]),
    "10,000 open brackets": (HEAD + b"user = " + b"[" * 10000, [(4, "nested")]),
    "10,000 tables": (HEAD + b"user = " + b"{a=" * 10000 + b"1" + b"}" * 10000, [(4, "nested")]),
    "a key of 10,000 parts": (
        HEAD + b"user" + b".a" * 10000 + b" = 1",
        [(4, "parts")],
    ),
    "200 brackets": (HEAD + b"user = " + b"[" * 200 + b"]" * 200, [(4, "must be a string")]),
    "a line of 100,000 characters": (
        HEAD + b'user = "' + b"a" * 50000 + b":" + b"b" * 50000 + b':"',
        [(4, "`defaults.user` must be")],
    ),
    "1,000 faults": (
        HEAD + b"".join(b"k%d = 1\n" % i for i in range(1000)),
        [(4 + i, f"unknown key `defaults.k{i}`") for i in range(1000)],
    ),
}


@pytest.mark.parametrize(("content", "wanted"), SYNTHETIC.values(), ids=SYNTHETIC)
def test_a_wrong_manifest_that_no_editor_would_write(
    world: World, content: bytes, wanted: list[tuple[int, str]]
) -> None:
    errors = refused(world, content).document["errors"]
    assert len(errors) == len(wanted)
    for each, (line, text) in zip(errors, wanted, strict=True):
        assert text in each["message"]
        assert each["line"] == line, each["message"]
        assert len(each["message"]) < 300, "no sentence"
        assert "sys.set_int_max_str_digits" not in each["message"], "no hint for who writes TOML"


@pytest.mark.parametrize("words", [["reconcile", "-n"], ["check"], ["status"]])
@pytest.mark.parametrize("uid", [0, 1000])
def test_every_command_tells_the_same(world: World, words: list[str], uid: int) -> None:
    told = refused(world, (MANIFESTS / "targets.toml").read_bytes()).err
    before = snapshot(world)
    result = world.mountd(*words, "--json", uid=uid)
    assert result.status == 78
    assert result.err == told
    assert_told(result, (MANIFESTS / "targets.toml").read_bytes())
    if not uid:  # for a user the test's own interpreter is mounted where he can reach it
        assert snapshot(world) == before


@pytest.mark.parametrize(
    "content",
    [b"\n\n", b"# nothing\r\n", b"[volumes]\n", b"version = 1", b"[defaults]\nuser = 'a'"],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "after a byte order mark"])
def test_a_manifest_without_volumes_means_no_mounts(
    world: World, content: bytes, mark: bytes
) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    world.reconcile()
    Path(world.manifest).write_bytes(mark + content)
    result = world.reconcile()
    assert result.volume("a")["action"] == "unmount"
    assert not world.mounts()


def test_a_mebibyte_is_not_too_much_and_a_byte_more_is(world: World) -> None:
    Path(world.manifest).write_bytes(b"#" * MIB)
    world.reconcile()
    Path(world.manifest).write_bytes(b"#" * (MIB + 1))
    world.reconcile(status=78)


# What lies where the manifest should be.


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 50 * MIB)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def loop(path: Path) -> None:
    path.symlink_to("other")
    path.with_name("other").symlink_to(path)


def below_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


PLACES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (Path, "there is no such file"),
    "no folder": (lambda path: path.parent.rmdir(), "there is no /mnt/conf"),
    "a file as its folder": (below_file, "not a directory"),
    "50 MB": (lambda path: path.write_bytes(b"# a comment\n" * (50 * MIB // 12)), "1 MiB"),
    "50 MB of nothing": (sparse, "1 MiB"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a FIFO": (os.mkfifo, "is a FIFO"),
    "a socket": (socket_at, "is a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a character device"),
    "a dangling link": (lambda path: path.symlink_to("gone"), "there is no /mnt/conf/gone"),
    "a link to the root": (lambda path: path.symlink_to("/"), "is a folder"),
    "a loop of links": (loop, "symbolic links"),
    "a name too long": (lambda path: path.symlink_to("x" * 256), "name too long"),
}


@pytest.mark.fault(9, "files of 50 MB, and without end")
@pytest.mark.fault(18, "as the manifest")
@pytest.mark.fault(19, "each kind of them")
@pytest.mark.parametrize(("make", "words"), PLACES.values(), ids=PLACES)
def test_what_is_no_manifest_is_told_and_changes_nothing(
    world: World, make: Callable[[Path], object], words: str
) -> None:
    world.folder("source")
    (world / "conf").mkdir()
    world.manifest = "/mnt/conf/mountd.toml"
    world.volumes(a={"source": world / "source", "target": world / "a"})
    world.reconcile()
    before = snapshot(world)
    os.unlink(world.manifest)
    make(Path(world.manifest))
    for command in ("reconcile", "check"):
        result = world.mountd(command, "--json")  # a FIFO would have it wait for ever
        assert result.status == 78
        (error,) = result.document["errors"]
        assert words.lower() in error["message"].lower()
        assert error["file"] == world.manifest and error["line"] is None
        assert result.err.startswith(f"{world.manifest}: error: {error['message']}\n")
        assert len(result.err.splitlines()) <= 2
    assert snapshot(world) == before


@pytest.mark.fault(19, "mode 0")
@pytest.mark.parametrize("hidden", ["/mnt/conf/mountd.toml", "/mnt/conf"])
def test_a_manifest_that_a_user_may_not_read(world: World, hidden: str) -> None:
    (world / "conf").mkdir()
    world.manifest = "/mnt/conf/mountd.toml"
    world.write("version = 1")
    os.chmod(hidden, 0)
    for words in (["check"], ["reconcile", "-n"], ["status"]):
        result = world.mountd(*words, uid=1000)
        assert result.status == 78
        told = "error: you may not read it\nhint: run mountd as root\n"
        assert result.err == f"{world.manifest}: {told}"
    world.reconcile()


def test_a_terminal_is_sent_nothing_that_it_would_obey(world: World) -> None:
    evil = "\\u001b]0;owned\\u0007\\u009b31m\\n\\u202e"
    keys = ("source", "target", "user", "owner", "accounts", "idmap", "fallback", "atime")
    text = "[volumes.a]\n" + "".join(f'{key} = "{evil}"\n' for key in keys)
    text += f'"{evil}" = 1\n[volumes."{evil}"]\n["{evil}"]\n'
    world.write(text)
    result = world.mountd("check")
    assert result.status == 78
    assert all(line.isprintable() for line in result.err.splitlines())


# The command line; more of it is in test_cli.py.


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stats"], "unknown command `stats`: did you mean `status`?"),
        ([""], "unknown command ``"),
        (["check", "--jsn"], "unknown option `--jsn`: did you mean `--json`?"),
        (["check", "-x"], "unknown option `-x`"),
        (["reconcile", "-nx"], "x"),
        (["check", "--json=1"], "--json"),
        (["status", "--all"], "`mountd status` takes no volumes"),
        (["unmount", "no-such"], "has no volume `no-such`"),
        (["check", "--state-dir"], "--state-dir"),
        (["check", "--state-dir", ""], "--state-dir"),
        *(
            (["reconcile", f"--wait={value}"], f"`{value}` is no number of seconds")
            for value in ("", "inf", "1e10", "1,5")
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(world: World, words: list[str], told: str) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    result = world.mountd(*words)
    assert result.status == 64
    first, *rest = result.err.splitlines()
    assert first.startswith("mountd: ") and told in first
    assert "explicit" not in first, "only who knows Python's argparse could act on that"
    assert len(rest) == 1 and rest[0].startswith("hint: ")
    assert not result.out
    assert not world.mounts() and not os.path.exists(f"{world.state}/record.json")


def test_a_wrong_command_line_has_a_document_too(world: World) -> None:
    world.write("version = 1")
    result = world.mountd("reconcile", "work", "--json")
    assert result.status == 64
    assert "takes no volumes" in result.document["errors"][0]["message"]


# The public TOML documents.


def suite() -> list[str]:
    paths = (path for kind in ("valid", "invalid") for path in (SUITE / kind).rglob("*.toml"))
    with_text = (path for path in paths if path.stat().st_size)  # one of zero bytes is missing
    return sorted(str(path.relative_to(SUITE)) for path in with_text)


def problems(path: Path) -> list[tuple[int | None, int | None, str]]:
    """What is wrong with a manifest, each with its line and column."""
    try:
        load_manifest(find_layers(os.path.realpath(path)), read_manifest, {}, is_acting=False)
    except ManifestError as error:
        return [(each.line, each.column, each.message) for each in error.problems]
    return []


@pytest.mark.parametrize("name", suite())
def test_a_public_document_as_manifest(name: str) -> None:
    lines = (SUITE / name).read_bytes().decode(errors="replace").split("\n")
    found = problems(SUITE / name)
    for line, column, message in found:
        assert line and 1 <= line <= len(lines)
        assert column and 1 <= column <= len(lines[line - 1]) + 1
        assert message
    is_toml = not any("not TOML" in message or "UTF-8" in message for *_, message in found)
    assert is_toml or name.startswith("invalid/")
    assert found or name.startswith("valid/")
