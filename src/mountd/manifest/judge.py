"""The models' judgement of a file: what it says, or everything that is wrong with it."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mountd.core.idmapping import IDENTITY, Extent, Extents, Idmapping, normalised
from mountd.manifest.document import Document
from mountd.manifest.merge import Tables
from mountd.manifest.problem import ManifestError
from mountd.manifest.schema import DefaultsTable, ExtentTable, IdmapTable, ManifestTable
from mountd.manifest.wording import problems_in


def judged_tables(document: Document, reserved: Mapping[str, str]) -> Tables:
    """What a file says itself, without what the schema puts in for it. Raises ManifestError.

    `reserved` is what no target may cover, by path.
    """
    values, names = _with_short_names(document.values)
    try:
        manifest = ManifestTable.model_validate(values, context=reserved)
    except ValidationError as error:
        found = problems_in(document, error.errors(include_url=False), names)
        raise ManifestError(found) from None
    return Tables(
        _own(manifest.defaults), {name: _own(table) for name, table in manifest.volumes.items()}
    )


def _with_short_names(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values with stand-ins for volumes' names that are far too long, and whose each is.

    pydantic copies a table's name for each thing that is wrong in it, and one may be as long as the
    manifest. A stand-in is no name for a volume either.
    """
    volumes = values.get("volumes")
    if not isinstance(volumes, dict):
        return values, {}
    long = {name: f"\0{n}" for n, name in enumerate(volumes) if len(name) > _LONG_NAME}
    if not long:
        return values, {}
    short = {long.get(name, name): table for name, table in volumes.items()}
    return {**values, "volumes": short}, {each: name for name, each in long.items()}


_LONG_NAME = 256


def _own(table: DefaultsTable) -> dict[str, Any]:
    own = {key: getattr(table, key) for key in table.model_fields_set}
    if isinstance(idmap := own.get("idmap"), IdmapTable):
        own["idmap"] = Idmapping(_extents(idmap.uids), _extents(idmap.gids))
    return own


def _extents(tables: list[ExtentTable] | None) -> Extents:
    if tables is None:
        return IDENTITY
    return normalised(Extent(each.stored, each.seen, each.count) for each in tables)
