"""The JSON documents: their schema, which is shipped, and by which each that a test sees is judged.

What a value may be is asked of the types that the code has.
"""

import json
from functools import cache
from typing import Any, get_args, get_type_hints

import jsonschema

from mountd.check.system import Finding
from mountd.core.actions import Action, Drift, FilesystemAction, Outcome
from mountd.core.idmapping import ID_COUNT, Extent
from mountd.core.model import Fault
from mountd.explain.explanation import Explanation
from mountd.explain.obstacle import Obstacle
from mountd.explain.reason import Reason
from mountd.explain.travel import Row
from mountd.explain.verdict import Deed, Verdict

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"}
_BOOL: Schema = {"type": "boolean"}
_ANSWER: Schema = {"type": ["boolean", "null"]}
_ID: Schema = {"type": "integer", "minimum": 0, "maximum": ID_COUNT - 1}
_PLACE: Schema = {"type": "integer", "minimum": 1}


def document_of(text: str) -> dict[str, Any]:
    """What mountd printed with --json: one document, which the schema takes."""
    document: dict[str, Any] = json.loads(text)
    see_document(document)
    return document


def see_document(document: object) -> None:
    """See that the schema takes it."""
    if found := jsonschema.exceptions.best_match(_validator().iter_errors(document)):
        raise AssertionError(f"{found.json_path}: {found.message}")


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(document_schema())


def document_schema() -> Schema:
    """The schema of whatever is printed with --json, in the dialect of draft 2020-12."""
    kinds = ("pass", "system", "explanation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mountd --json",
        "description": "What mountd prints on stdout with --json: see mountd(1).",
        "oneOf": [_ref(kind) for kind in kinds],
        "$defs": {
            "pass": _pass(),
            "volume": _volume(),
            "filesystem": _filesystem(),
            "drift": _drift(),
            "fault": _fault(),
            "problem": _problem(),
            "idmap": _idmap(),
            "system": _system(),
            "explanation": _explanation(),
            "path": _path(),
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _of(kind: type, field: str) -> Schema:
    """One of the words that a field of a type of the code's may have."""
    return _words(get_type_hints(kind)[field])


def _words(hint: Any) -> Schema:
    words: list[Any] = []
    for each in get_args(hint):
        words += _words(each)["enum"] if get_args(each) else [each]
    return {"enum": [None if each is type(None) else each for each in words]}


def _or_null(schema: Schema) -> Schema:
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    if "properties" not in schema and "$ref" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(description: str, **keys: tuple[Schema, str]) -> Schema:
    """One that has these keys and no other, each with what it means."""
    return {
        "description": description,
        "type": "object",
        "properties": {
            name: {"description": meaning, **schema} if meaning else schema
            for name, (schema, meaning) in keys.items()
        },
        "required": [*keys],
        "additionalProperties": False,
    }


def _pass() -> Schema:
    return _object(
        "Of reconcile, status, check, unmount, watch when it ends, and whatever stops early.",
        version=({"const": 1}, "Of the document's format."),
        pass_id=(
            {"type": "string", "pattern": "^([0-9a-f]{32})?$"},
            (
                "The pass, in the journal as MOUNTD_PASS_ID=. Empty where the command line"
                " was wrong."
            ),
        ),
        manifest=(_list(_TEXT), "The manifest's files, in the order in which they were read."),
        dry_run=(_BOOL, "Whether nothing was to be changed."),
        changed=(_BOOL, "Whether a mount was changed; with dry_run, whether one would be."),
        volumes=(
            _list(_ref("volume")),
            "In the manifest's order; then mounts that leave, by target, as they were named.",
        ),
        filesystems=(
            _list(_ref("filesystem")),
            "What volumes with a `type` are folders of: each is mounted once.",
        ),
        errors=(
            _list(_ref("problem")),
            "What is wrong with the manifest, or stopped the run; then there are no volumes.",
        ),
    )


def _volume() -> Schema:
    faulty = {"properties": {"state": _of(Fault, "state")}}
    volume = _object(
        "One volume: what was done, or would be, and how it is.",
        name=(_NAME, "Its key in the manifest."),
        target=(_TEXT, "Where its files appear."),
        source=(_TEXT, "Where they come from."),
        action=(
            _of(Action, "verb"),
            "The step for it, null where none could be taken, as `error` says.",
        ),
        state=(
            _of(Outcome, "state"),
            "As it is. Where nothing is done: pending, conflict or failed if a pass would end so.",
        ),
        reason=(
            _or_null(_of(Fault, "code")),
            "The code of `error`, or else of `refused`.",
        ),
        drift=(
            _list(_ref("drift")),
            "In what its mount differed from what the manifest says, before the pass.",
        ),
        fallback=(
            {"enum": ["plain", None]},
            "plain: it has raw ids, or would have, since it can't be idmapped.",
        ),
        refused=(
            _or_null(_ref("fault")),
            "Why it has raw ids and what to do about it; null where they are no fallback.",
        ),
        idmap=(
            _or_null(_ref("idmap")),
            "Its idmapping, in status and explain the one in force; null: none of mountd's.",
        ),
        notes=(_list(_TEXT), "What else is worth a word."),
        error=(_or_null(_ref("fault")), "Why it is failed, pending or in conflict."),
    )
    null, some = {"type": "null"}, {"type": "object"}
    return {
        **volume,
        "if": faulty,
        "then": {"properties": {"error": some}},
        "else": {"properties": {"error": null}},
        "oneOf": [
            {"properties": {"fallback": null, "refused": null}},
            {"properties": {"fallback": {"const": "plain"}, "refused": some}},
        ],
    }


def _filesystem() -> Schema:
    return _object(
        "A filesystem that volumes with a `type` are folders of.",
        type=(_TEXT, "Empty for one that leaves the manifest, and of which nothing is known."),
        source=(_TEXT, "Its tag or device."),
        options=(_list(_TEXT), "As the manifest has them."),
        action=(_of(FilesystemAction, "verb"), "The step for it, null where none can be taken."),
        state=(_of(FilesystemAction, "state"), "As it is."),
        notes=(_list(_TEXT), "What the step costs, and what else is worth a word."),
        error=(_or_null(_ref("fault")), "Why it can't be mounted."),
        volumes=(_list(_NAME), "The names of the volumes that are folders of it."),
    )


def _drift() -> Schema:
    return _object(
        "A difference between a mount and what the manifest says.",
        field=(_of(Drift, "field"), "In what."),
        wanted=(_TEXT, ""),
        found=(_TEXT, ""),
    )


def _fault() -> Schema:
    return _object(
        "What is wrong, in the words that people get.",
        code=(_of(Fault, "code"), "The same whatever the words are."),
        message=(_TEXT, "What failed, and what the kernel said."),
        hint=(_or_null(_TEXT), "What to do about it."),
    )


def _problem() -> Schema:
    return _object(
        "An error of the manifest, or of the run.",
        file=(_or_null(_TEXT), "The file that it is in, if it is in one."),
        line=(_or_null(_PLACE), "From 1; null where it is the file as a whole."),
        column=(_or_null(_PLACE), "From 1, in characters."),
        message=(_TEXT, "What is wrong."),
        hint=(_or_null(_TEXT), "What to do about it."),
    )


def _idmap() -> Schema:
    extents = _list(
        _object(
            "A run of ids.",
            stored=(_ID, "The first, as it is stored on the source's filesystem."),
            seen=(_ID, "The first, as it is shown at the target."),
            count=({"type": "integer", "minimum": 1, "maximum": ID_COUNT}, "How many ids."),
        )
    )
    assert Extent._fields == (*extents["items"]["properties"],)
    return _object("An idmapping.", uids=(extents, ""), gids=(extents, ""))


def _system() -> Schema:
    finding = _object(
        "What the machine answers about one thing.",
        group=(_of(Finding, "group"), ""),
        name=(_TEXT, "A call, a filesystem and where it is mounted, or a capability."),
        allowed=(_ANSWER, "null: that can't be told."),
        consequence=(_or_null(_TEXT), "What follows where it isn't allowed."),
    )
    return _object(
        "Of check --system.",
        version=({"const": 1}, "Of the document's format."),
        system=(_list(finding), "What this kernel, its filesystems and our privileges allow."),
        errors=({"type": "array", "maxItems": 0}, "What stops the command is another document."),
    )


def _explanation() -> Schema:
    owner = _object("", uid=(_ID, ""), gid=(_ID, ""))
    partly = _object("", uid=(_or_null(_ID), ""), gid=(_or_null(_ID), ""))
    ids = _object(
        "Ids on both sides of the mount.",
        kind=(_of(Row, "kind"), "Whose they are."),
        stored=(owner, "On the source's filesystem."),
        seen=(partly, "At the target; null: the idmapping leaves that id out."),
        name=(_or_null(_TEXT), "Of the user whose ids those seen are."),
    )
    user = _object(
        "A user by ids.",
        name=(_TEXT, ""),
        uid=(_ID, ""),
        gid=(_ID, ""),
        groups=(_list(_ID), "The supplementary ones."),
    )
    why = _object(
        "Why the idmapping is as it is.",
        rule=(_of(Reason, "rule"), "The rule that holds."),
        message=(_TEXT, "The same in words."),
        lines=(
            _list(_object("One of it.", file=(_TEXT, ""), line=(_PLACE, ""), text=(_TEXT, ""))),
            "By which it holds.",
        ),
    )
    volume = _volume()["properties"]
    return _object(
        "Of explain.",
        version=({"const": 1}, "Of the document's format."),
        volume=(_NAME, "Its key in the manifest."),
        **{key: (volume[key], "") for key in ("target", "source", "state", "drift", "idmap")},
        idmap_from=(_of(Explanation, "origin"), "Who says so; manifest: it isn't mounted."),
        ids=(_list(ids), "How ids travel."),
        others=(_of(Explanation, "rest"), "As what all other ids are seen."),
        user=(_or_null(user), "Whom the kernel was asked about."),
        creates=(
            _or_null(owner),
            "As whose what the user creates is stored; null: nobody's.",
        ),
        path=(_ref("path"), "What the user may there."),
        why=(_or_null(why), "By which rule, and which lines of the manifest."),
        **{key: (volume[key], "") for key in ("fallback", "refused", "notes", "error")},
        errors=({"type": "array", "maxItems": 0}, "What stops the command is another document."),
    )


def _path() -> Schema:
    deeds = dict.fromkeys(get_args(Deed), (_ANSWER, "null: it doesn't apply, or isn't known."))
    step = _object(
        "A name on the way.",
        path=(_TEXT, ""),
        owner=(_object("", uid=(_ID, ""), gid=(_ID, "")), "As it is seen there."),
        mode=({"type": "string", "pattern": "^[0-7]{4}$"}, "The permission bits."),
        link=(_or_null(_TEXT), "Where a symbolic link leads."),
        **{key: deeds[key] for key in ("read", "write", "execute")},
    )
    obstacle = _object(
        "What stops the user.",
        deed=(_words(Deed), "From what."),
        code=(_of(Obstacle, "code"), "The same whatever the words are."),
        path=(_TEXT, "Where."),
        message=(_TEXT, "What was said."),
        hint=(_or_null(_TEXT), "What to do about it."),
    )
    return _object(
        "A path, and what a user may there.",
        path=(_TEXT, ""),
        kind=(_of(Verdict, "kind"), "null: nothing is known to be there."),
        **deeds,
        stopped_by=(_list(obstacle), "One for each deed that is false."),
        steps=(_list(step), "The way, from the root folder on."),
    )
