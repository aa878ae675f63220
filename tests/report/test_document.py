"""The documents' schema, by which each that a test sees is judged: how much that says."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from documents import document_schema, see_document
from every_state import make_every_state
from package import PROJECT
from world import World, run

_KINDS = {
    "pass": ["status"],
    "errors": ["reconcile", "work"],
    "system": ["check", "--system"],
    "explanation": ["explain", "work", "hello", "--user", "1001:1001"],
}


@pytest.fixture
def documents(world: World) -> dict[str, Any]:
    """One of each kind, with something in every list."""
    make_every_state(world)
    (world / "lower").mkdir()
    run("mount", "-t", "ramfs", "-o", "nosuid", "ramfs", str(world / "lower"))
    with open(world.manifest, "a") as manifest:
        manifest.write(
            f'[volumes.work]\nsource = "{world.path}/lower"\ntarget = "{world.path}/work"\n'
            'user = "1000:1000"\nowner = "501:20"\n'
            f'[volumes.shared]\ntype = "tmpfs"\nsource = "one"\ntarget = "{world.path}/shared"\n'
        )
    world.mountd("reconcile")
    return {kind: world.mountd(*words, "--json").document for kind, words in _KINDS.items()}


def _spoilt(value: Any) -> Iterator[Any]:
    """The value with one thing wrong in it, somewhere, in every way."""
    match value:
        case dict():
            yield {**value, "more": None}
            for key, each in value.items():
                yield {name: it for name, it in value.items() if name != key}
                for spoilt in _spoilt(each):
                    yield {**value, key: spoilt}
        case list():
            yield {}
            for index, each in enumerate(value):
                for spoilt in _spoilt(each):
                    yield [*value[:index], spoilt, *value[index + 1 :]]
        case _:
            yield [value]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(document_schema())


@pytest.mark.parametrize("kind", _KINDS)
def test_whatever_is_missing_or_too_much_or_of_another_type_is_refused(
    documents: dict[str, Any], kind: str
) -> None:
    document = documents[kind]
    if volumes := document.get("volumes"):
        document["volumes"] = [each for each in volumes if each["refused"] or each["drift"]][:3]
        assert document["volumes"] and document["filesystems"]
    see_document(document)
    spoilt = [*_spoilt(document)]
    assert len(spoilt) > 10
    for each in spoilt:
        with pytest.raises(AssertionError):
            see_document(each)


def test_a_reason_that_is_not_listed_is_refused(documents: dict[str, Any]) -> None:
    document = documents["pass"]
    for volume in document["volumes"]:
        for fault in filter(None, (volume["error"], volume["refused"])):
            known, fault["code"] = fault["code"], "something-else"
            with pytest.raises(AssertionError, match="something-else"):
                see_document(document)
            fault["code"] = known


@pytest.mark.parametrize(
    "change",
    [
        {"fallback": "plain"},
        {"refused": {"code": "io", "message": "", "hint": None}},
        {"state": "failed"},
        {"error": {"code": "io", "message": "", "hint": None}},
    ],
)
def test_what_goes_together_is_asked_together(
    documents: dict[str, Any], change: dict[str, Any]
) -> None:
    document = copy.deepcopy(documents["pass"])
    (volume,) = (each for each in document["volumes"] if each["name"] == "kept")
    volume.update(change)
    with pytest.raises(AssertionError):
        see_document(document)


def test_every_key_of_it_is_described() -> None:
    for name, table in document_schema()["$defs"].items():
        assert table["description"], name
        undescribed = {key for key, each in table["properties"].items() if not _is_described(each)}
        assert undescribed <= {"path", "wanted", "found", "uids", "gids"}, name


def _is_described(schema: dict[str, Any]) -> bool:
    return bool(schema.get("description"))


def test_the_readme_names_where_it_is_shipped() -> None:
    (path,) = re.findall(r"`/usr/(\S+document\S+)`", (PROJECT / "README.md").read_text())
    assert (PROJECT / path).is_file()
