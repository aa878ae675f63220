"""A manifest's file → volumes: read safely, parsed, validated, the defaults merged in."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from mountd.core.idmapping import IDENTITY, Extent, Extents, Idmapping, normalised
from mountd.core.model import Ids, Volume
from mountd.manifest.document import Document, dotted
from mountd.manifest.positions import KeyPath
from mountd.manifest.problem import ManifestError, Problem
from mountd.manifest.schema import ExtentTable, IdmapTable, ManifestTable, normalised_path
from mountd.manifest.wording import problems_in

MOST_BYTES = 1 << 20


class Manifest(NamedTuple):
    """The volumes of a manifest in its order; `warnings` tell who else could have written it."""

    file: str
    volumes: tuple[Volume, ...]
    warnings: tuple[str, ...]


class Reading(NamedTuple):
    """A file's bytes, and a sentence for each way in which others than root could write them."""

    content: bytes
    distrusts: tuple[str, ...]


class UnreadableError(Exception):
    """A file can't be read: why, in words, and what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def load_manifest(
    file: str, read: Callable[[str], Reading], reserved: dict[str, str], *, is_acting: bool
) -> Manifest:
    """Read and validate a manifest; `reserved` is what no target may cover, by path.

    Raises ManifestError with everything that is wrong. Where root is to act on it (`is_acting`), a
    file that someone else could have written is wrong; otherwise that is a warning.
    """
    try:
        content, distrusts = read(file)
    except UnreadableError as error:
        raise ManifestError([Problem(file, None, None, error.message, error.hint)]) from error
    if distrusts and is_acting:
        hint = "see that root owns it and the folders above it, and that nobody else can write them"
        refused = [f"{each}; mountd would do as root what others wrote" for each in distrusts]
        raise ManifestError([Problem(file, None, None, each, hint) for each in refused])
    document = Document(file, content)
    problems = list(_rule_problems(document))
    try:
        table = ManifestTable.model_validate(document.values, context=reserved)
    except ValidationError as error:
        problems += problems_in(document, error.errors(include_url=False))
    if problems:
        raise ManifestError(problems)
    warnings = tuple(f"{each}: a pass by root refuses that" for each in distrusts)
    return Manifest(file, tuple(_volumes(table)), warnings)


def _rule_problems(document: Document) -> Iterator[Problem]:
    """What is wrong with tables as wholes; told beside whatever is wrong with their values."""
    defaults = document.values.get("defaults")
    if not isinstance(defaults, Mapping):
        defaults = {}
    if _has_user_and_extents(defaults):
        yield _both(document, ("defaults", "user"))
    targets: dict[str, KeyPath] = {}
    volumes = document.values.get("volumes")
    for name, table in volumes.items() if isinstance(volumes, Mapping) else ():
        if not isinstance(table, Mapping):
            continue
        if table.get("enabled", defaults.get("enabled")) is False:
            continue
        for key in ("source", "target"):
            if key not in table:
                path: KeyPath = ("volumes", name, key)
                hint = "every volume has a source and a target"
                yield document.problem(path, f"`{dotted(path)}` is missing", hint)
        if _has_user_and_extents(table):
            yield _both(document, ("volumes", name, "user"))
        yield from _target_problems(document, name, table, targets)


def _target_problems(
    document: Document, name: str, table: Mapping[str, Any], targets: dict[str, KeyPath]
) -> Iterator[Problem]:
    """Compare a target with the others so far, which it joins, and with its source."""
    source, target = table.get("source"), table.get("target")
    if not isinstance(target, str) or not target.startswith("/"):
        return
    target = normalised_path(target)
    path: KeyPath = ("volumes", name, "target")
    if target in targets:
        other = targets[target]
        message = f"`{dotted(path)}` is {target}, as `{dotted(other)}` is"
        yield document.problem(path, message, f"which is in line {document.line_of(other)}")
    targets.setdefault(target, path)
    if isinstance(source, str) and normalised_path(source).startswith(f"{target}/"):
        path = ("volumes", name, "source")
        message = f"`{dotted(path)}` lies below its own target, which would cover it"
        yield document.problem(path, message)


def _has_user_and_extents(table: Mapping[str, Any]) -> bool:
    return "user" in table and isinstance(table.get("idmap"), Mapping)


def _both(document: Document, path: KeyPath) -> Problem:
    message = f"`{dotted(path)}` can't stand beside the extents in `idmap`"
    return document.problem(path, message, "either says who is seen", at_key=True)


def _volumes(manifest: ManifestTable) -> Iterator[Volume]:
    """The enabled volumes, each with the defaults for what it doesn't say itself."""
    defaults = {key: getattr(manifest.defaults, key) for key in manifest.defaults.model_fields_set}
    for name, table in manifest.volumes.items():
        own = {key: getattr(table, key) for key in table.model_fields_set}
        values = {**defaults, **own}
        if "user" in own and "idmap" not in own and isinstance(values.get("idmap"), IdmapTable):
            del values["idmap"]  # user and extents displace each other
        if "user" not in own and isinstance(own.get("idmap"), IdmapTable):
            values.pop("user", None)
        if values.pop("enabled", True):
            yield _volume(name, values)


def _volume(name: str, values: dict[str, Any]) -> Volume:
    if isinstance(table := values.get("idmap"), IdmapTable):
        values["idmap"] = Idmapping(_extents(table.uids), _extents(table.gids))
    if owner := values.get("owner"):
        uid, gid = (int(digits.lstrip("0") or "0") for digits in owner.split(":"))
        values["owner"] = Ids(uid, gid)
    values.pop("fallback", None)  # there is none yet: a filesystem that refuses fails its volume
    return Volume(name=name, **values)


def _extents(tables: list[ExtentTable] | None) -> Extents:
    if tables is None:
        return IDENTITY
    return normalised(Extent(each.stored, each.seen, each.count) for each in tables)
