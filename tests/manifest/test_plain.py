"""The short way in accepts nothing that the models don't, and gives it the same values."""

import re
from copy import deepcopy
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from volumes import make_plain
from world import World

from mountd.manifest.document import Document
from mountd.manifest.judge import judged_tables
from mountd.manifest.merge import Tables
from mountd.manifest.plain import plain_tables
from mountd.manifest.problem import ManifestError

ROOT = Path(__file__).resolve().parents[2]
RESERVED = {"/run/mountd": "the state directory", "/run": "above the state directory"}
TEXTS = [
    "/srv/a", "/srv//a/./", "/etc", "/run/mountd", "/lib64", "/proc/1", "srv/a", "a/../b", "/a/..b",
    "", "/", "a", "tmpfs", "size=1m", "=1", "ro", "node", "1000", "1000:1000", "-1", "4294967295",
    "4294967294", "node:", ":node", "a:b:c", "0501:020", "1000:node", "auto", "always", "never",
    "plain", "fail", "relatime", "noatime", "on", "/a\nb", "/\x00", "/a\x85", "\u00e9", "x" * 300,
    "/" + "x" * 5000,
]  # fmt: skip
NUMBERS = [0, 1, 2, -1, 501, 2**32 - 2, 2**32 - 1, 2**32, 10**50]
EXTENTS = st.lists(
    st.fixed_dictionaries(
        {key: st.sampled_from(NUMBERS) for key in ("stored", "seen", "count")},
        optional={"more": st.just(1)},
    )
    | st.sampled_from([{"stored": 1, "seen": 1}, 1, {}]),
    max_size=3,
)
VALUES = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.booleans(),
    st.sampled_from([1.0, [], {}, ["a"], [1]]),
    st.lists(st.sampled_from(TEXTS), max_size=3),
    st.dictionaries(st.sampled_from(["uids", "gids", "more"]), EXTENTS, max_size=2),
)
RIGHT: dict[str, Any] = {
    "type": "tmpfs", "options": ["size=1m"], "subdir": "a//b/", "user": "node", "owner": "501:20",
    "accounts": "/srv/image/", "idmap": "always", "fallback": "fail", "recursive": True,
    "read_only": False, "noexec": True, "nosuid": False, "nodev": True, "atime": "noatime",
    "create": False, "required": False, "enabled": True,
}  # fmt: skip
IDMAP = {"uids": [{"stored": 501, "seen": 1000, "count": 1}]}
KEYS = [*RIGHT, "source", "target", "unknown"]
TABLES = st.fixed_dictionaries({}, optional={key: st.just(RIGHT[key]) for key in RIGHT}).flatmap(
    lambda table: st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2).map(
        lambda more: {"source": "/srv/a", "target": "/mnt/a/", **table, **more}
    )
)
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([1, 1, 1, True, 2, "1", 1.0]),
        "defaults": TABLES.map(
            lambda it: {k: v for k, v in it.items() if k not in ("source", "target")}
        )
        | VALUES,
        "volumes": st.dictionaries(
            st.sampled_from(["a", "A-b_1", "", "-a", "a\n", "x" * 65, "x" * 64]), TABLES, max_size=3
        )
        | VALUES,
        "more": VALUES,
    },
)


def judged(values: dict[str, Any]) -> Tables | None:
    """What the models say of it; None where they refuse it."""
    document = Document("/m", b"")
    document.values = deepcopy(values)
    try:
        return judged_tables(document, RESERVED)
    except (ManifestError, KeyError):  # the latter: the empty text has no place for what is wrong
        return None


@given(MANIFESTS)
def test_what_it_accepts_the_models_accept_with_equal_values(values: dict[str, Any]) -> None:
    if (tables := plain_tables(values, RESERVED)) is not None:
        assert tables == judged(values)


@pytest.mark.parametrize("key", [*RIGHT, "idmap as a table", "user as a number"])
def test_each_key_with_a_right_value_is_plain(key: str) -> None:
    others: dict[str, dict[str, Any]] = {
        "idmap as a table": {"idmap": IDMAP},
        "user as a number": {"user": 1000},
    }
    table = others.get(key, {key: RIGHT.get(key)})
    for values in (
        {"version": 1, "defaults": table},
        {"volumes": {"a": {"source": "/srv/a", "target": "/mnt//a", **table}}},
    ):
        tables = plain_tables(values, RESERVED)
        assert tables is not None
        assert tables == judged(values)


def _documents() -> list[Path]:
    folders = [ROOT / "examples", ROOT / "tests", ROOT / "docs", ROOT / "units"]
    return sorted(path for folder in folders for path in folder.rglob("*.toml"))


@pytest.mark.parametrize("path", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_of_each_manifest_of_ours_it_says_what_the_models_say(path: Path) -> None:
    try:
        values = tomli.loads(path.read_bytes().decode())
    except (ValueError, RecursionError):
        return  # for the parser to refuse
    tables = plain_tables(values, RESERVED)
    if path.is_relative_to(ROOT / "examples"):
        assert tables is not None
    if tables is not None:
        assert tables == judged(values)


def _blocks() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (f"{page.name}, block {number}", text)
        for page in pages
        for number, text in enumerate(
            re.findall(r"^ *```toml\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
        )
    ]


@pytest.mark.parametrize("text", [each[1] for each in _blocks()], ids=[e[0] for e in _blocks()])
def test_of_what_is_shown_in_a_page_it_says_what_the_models_say(text: str) -> None:
    values = tomli.loads(dedent(text))
    if (tables := plain_tables(values, RESERVED)) is not None:
        assert tables == judged(values)


def test_what_is_not_plain_is_judged_by_the_models(world: World) -> None:
    make_plain(world, "a", user=1.5)
    result = world.mountd("check")
    assert "`volumes.a.user` must be a string or an integer, not a float" in result.err
