"""The manifest's JSON Schema: it takes what mountd takes, and refuses only what mountd refuses."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from package import PROJECT
from pydantic import ValidationError
from world import World, run

from mountd.core.targets import why_forbidden
from mountd.manifest.json_schema import manifest_schema
from mountd.manifest.schema import ManifestTable, VolumeTable

_PLACE = "/usr/share/mountd/mountd.schema.json"
_EXAMPLE = PROJECT / "examples/mountd.toml"
_README = (PROJECT / "README.md").read_text()
_schema = jsonschema_rs.validator_for(manifest_schema())


def _volume(line: str) -> str:
    return f'[volumes.a]\nsource = "/srv"\ntarget = "/data"\n{line}\n'


# what a schema can tell
_REFUSED = [
    "version = 2",
    "version = true",
    "volume = {}",
    "[default]",
    "defaults = 1",
    "volumes = []",
    '[defaults]\nsource = "/srv"',
    "[volumes.-a]",
    '[volumes."a b"]',
    f"[volumes.{'a' * 65}]",
    '[volumes.a]\ntarget = "data"',
    '[volumes.a]\ntarget = "/data/../etc"',
    '[volumes.a]\ntarget = "/a\\nb"',
    '[volumes.a]\ntarget = "/"',
    '[volumes.a]\ntarget = "//etc/"',
    '[volumes.a]\ntarget = "/lib64"',
    '[volumes.a]\ntarget = "/proc/1"',
    "[volumes.a]\nsource = 1",
    *map(
        _volume,
        [
            'souce = "/srv"',
            'user = ""',
            'user = ":group"',
            'user = "name:"',
            'user = "a:b:c"',
            'user = "a\\tb"',
            "user = -1",
            "user = 4294967295",
            "user = 1.5",
            'owner = "501"',
            'owner = "root:root"',
            'accounts = "rootfs"',
            'type = ""',
            'type = "fuse/x"',
            'options = "ro"',
            'options = ["=1"]',
            'options = [""]',
            'subdir = "/build"',
            'subdir = "a/.."',
            'subdir = ""',
            'idmap = "sometimes"',
            "idmap = { uid = [] }",
            "idmap = { uids = [] }",
            "idmap = { uids = [{ stored = 1, seen = 1 }] }",
            "idmap = { uids = [{ stored = 4294967295, seen = 1, count = 1 }] }",
            'fallback = "raw"',
            'recursive = "yes"',
            "read_only = 1",
            'atime = "never"',
        ],
    ),
]
# what it can't: values beside each other, the size of a number in a string, what a path leads to
_BEYOND = [
    *map(
        _volume,
        [
            'user = "4294967295"',
            'user = "-1"',
            'owner = "501:9999999999"',
            'subdir = "a"',
            'user = "node"\nidmap = {}',
            "idmap = { uids = [{ stored = 1, seen = 1, count = 0 }] }",
            "idmap = { uids = [{ stored = 4294967294, seen = 1, count = 9 }] }",
        ],
    ),
    '[volumes.a]\nsource = "/srv"',
    '[volumes.a]\nsource = "srv"\ntarget = "/data"',
    '[volumes.a]\nsource = "/data/a"\ntarget = "/data"',
    '[volumes.a]\nsource = "/srv"\ntarget = "/./etc/."',
    _volume("") + '[volumes.b]\nsource = "/srv"\ntarget = "/data"',
    '[volumes.a]\nsource = "/srv"\ntarget = "$"',  # the manifest lies below it
]


def test_it_needs_no_manifest_and_no_privilege(world: World) -> None:
    result = world.mountd("schema", uid=1000)
    assert (result.status, result.err) == (0, "")
    schema = json.loads(result.out)
    assert schema == manifest_schema()
    jsonschema_rs.meta.validate(schema)


def test_no_other_command_waits_for_it(world: World) -> None:
    world.write("version = 1")
    code = f"import sys; sys.argv[1:] = ['check', '-f', '{world.manifest}']; main()"
    words = ["-X", "importtime", "-c", f"from mountd.cli import main; {code}"]
    imported = world.run([sys.executable, *words]).err
    assert "mountd.manifest.plain" in imported
    assert "mountd.manifest.json_schema" not in imported


@pytest.mark.parametrize(
    "text",
    [
        _EXAMPLE.read_text(),
        *re.findall(r"^```toml\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL),
        "",
        'version = 1\n[volumes.a]\nuser = "dev"\n[volumes.b]\nenabled = false\n',
        _volume('user = 0\nowner = "0:0"\nidmap = {}\noptions = ["a=b=c"]'),
        _volume('type = "fuse.x"\nsubdir = "a/..b"\nuser = "a b:-c"\naccounts = "/..."'),
    ],
)
def test_what_mountd_takes_it_takes(text: str) -> None:
    values = tomllib.loads(text)
    ManifestTable.model_validate(values)
    _schema.validate(values)


@pytest.mark.parametrize("text", _REFUSED)
def test_what_it_refuses_mountd_refuses(text: str) -> None:
    values = tomllib.loads(text)
    assert not _schema.is_valid(values)
    with pytest.raises(ValidationError):
        ManifestTable.model_validate(values, context={})


@pytest.mark.parametrize("text", _BEYOND)
def test_what_only_mountd_can_tell(world: World, text: str) -> None:
    assert _schema.is_valid(tomllib.loads(text.replace("$", world.path)))
    world.write(text)
    assert world.mountd("check").status == 78


_words = st.sampled_from(["", "/", "..", ".", ":", "=", "-", "7", "a", "etc", "lib", "\x7f"])
_texts = st.lists(_words | st.characters(codec="utf-8"), max_size=8).map("".join)
_values: st.SearchStrategy[Any] = st.recursive(
    _texts
    | st.integers(-2, 1 << 33)
    | st.booleans()
    | st.sampled_from(["auto", "plain", "relatime", "/data", "1:2"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["uids", "stored", "seen", "count"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_tables = st.dictionaries(
    st.sampled_from(sorted(VolumeTable.model_fields)) | _texts,
    _values,
    max_size=4,
)


_names = st.sampled_from(["a", "B-_9"]) | _texts
_manifests = {
    "version": st.integers(0, 2) | st.booleans(),
    "defaults": _tables,
    "volumes": st.dictionaries(_names, _tables, max_size=2),
}


@given(st.fixed_dictionaries({}, optional=_manifests))
def test_whatever_it_refuses_mountd_refuses(values: dict[str, Any]) -> None:
    if not _schema.is_valid(values):
        with pytest.raises(ValidationError):
            ManifestTable.model_validate(values)


@given(st.sampled_from(["/", "//", ""]), _texts, st.sampled_from(["", "/", "/x", "/."]))
def test_whatever_target_it_refuses_mountd_refuses(start: str, name: str, end: str) -> None:
    values = {"volumes": {"a": {"target": f"{start}{name}{end}"}}}
    if not _schema.is_valid(values):
        with pytest.raises(ValidationError):
            ManifestTable.model_validate(values)


@pytest.mark.parametrize("path", ["/", "/boot", "/usr", "/var", "/lib32", "/dev/shm", "/sys/fs"])
def test_it_knows_the_targets_that_would_take_the_machine_down(path: str) -> None:
    assert why_forbidden(path, {})
    assert not _schema.is_valid({"volumes": {"a": {"target": path}}})


@pytest.fixture
def place(world: World) -> World:
    """The schema where it is installed."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/usr/share")
    Path(_PLACE).parent.mkdir()
    Path(_PLACE).write_bytes((PROJECT / "share/mountd/mountd.schema.json").read_bytes())
    return world


_TOOLS = {"taplo": ["lint"], "tombi": ["lint", "--offline"]}


@pytest.mark.parametrize("tool", _TOOLS)
def test_editors_find_it_by_the_first_line_of_the_example(place: World, tool: str) -> None:
    text = _EXAMPLE.read_text()
    assert text.splitlines()[0] == f"#:schema {_PLACE}"
    for wrong, right in ((None, None), ("usr = ", "user = "), ("[volumes.-", "[volumes.")):
        (place / "work").mkdir(exist_ok=True)
        file = place / "work/mountd.toml"
        file.write_text(text.replace(right, wrong, 1) if wrong and right else text)
        command = [str(Path(sys.executable).parent / tool), *_TOOLS[tool], str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/mnt")
        assert (done.returncode == 0) == (wrong is None), done.stdout + done.stderr


def test_each_key_has_a_description_and_a_default() -> None:
    schema = manifest_schema()
    tables = {name: each["properties"] for name, each in schema["$defs"].items()}
    for key, value in tables["VolumeTable"].items():
        said = value["description"]
        assert said.endswith("."), key
        assert "default" in value or "Default: " in said or said.endswith("It is required."), key
    assert tables["DefaultsTable"].keys() == tables["VolumeTable"].keys() - {"source", "target"}
    assert json.dumps(schema).count('"null"') == 0
