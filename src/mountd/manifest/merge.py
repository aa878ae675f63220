"""The documents of a manifest as one, which knows the document that each value came from."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from mountd.core.named_tuple import NamedTuple
from mountd.manifest.document import Document
from mountd.manifest.problem import Problem
from mountd.manifest.spans import KeyPath


class Tables(NamedTuple):
    """What merges: the keys of `[defaults]`, and those of each volume."""

    defaults: dict[str, Any]
    volumes: dict[str, dict[str, Any]]


def merged(layers: Sequence[Tables]) -> Tables:
    """Tables merged key by key: a later value replaces an earlier one whole.

    Volumes are in the order in which they were first met.
    """
    if len(layers) == 1:
        return layers[0]
    result = Tables({}, {})
    for defaults, volumes in layers:
        result.defaults.update(defaults)
        for name, table in volumes.items():
            result.volumes.setdefault(name, {}).update(table)
    return result


class MergedDocuments:
    """Documents in the order in which they are merged, and their values so, as they are written."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.defaults, self.volumes = merged([_tables(each.values) for each in documents])

    def has_type(self, volume: Mapping[str, Any]) -> bool:
        """Whether a volume is of a filesystem, by its own word or by default."""
        return "type" in volume or "type" in self.defaults

    def problem(
        self, path: KeyPath, message: str, hint: str | None = None, *, at_key: bool = False
    ) -> Problem:
        """A problem with a value, in the document that it is from; or with a table's header.

        That is the header in the first document that has the table.
        """
        return self._origin(path).problem(path, message, hint, at_key=at_key)

    def lines(self, *paths: KeyPath) -> Iterator[tuple[str, int, str]]:
        """File, line (from 1) and that line's text for each of these key paths that is there."""
        for path in paths:
            if (origin := self._origins.get(path[:_KEY])) and _has(origin.values, path):
                line = origin.line_of(path)
                yield origin.file, line, origin.text_of_line(line)

    def place(self, path: KeyPath, beside: KeyPath) -> str:
        """`line N`, or `FILE, line N` if in another file than the error is reported in."""
        origin = self._origin(path)
        line = f"line {origin.line_of(path)}"
        return line if origin is self._origin(beside) else f"{origin.file}, {line}"

    def _origin(self, path: KeyPath) -> Document:
        return self._origins[path[:_KEY]]

    @cached_property
    def _origins(self) -> dict[KeyPath, Document]:
        """For the table of a volume the first document that has it, for what is in it the last."""
        found: dict[KeyPath, Document] = {}
        for document in self.documents:
            defaults, volumes = _tables(document.values)
            found |= {("defaults", key): document for key in defaults}
            for name, table in volumes.items():
                found.setdefault(("volumes", name), document)
                found |= {("volumes", name, key): document for key in table}
        return found


_KEY = 3
"""As many parts lead to a value that merging replaces whole."""


def _tables(values: Mapping[str, Any]) -> Tables:
    defaults, volumes = values.get("defaults"), values.get("volumes")
    if not isinstance(defaults, dict):
        defaults = {}
    if not isinstance(volumes, dict):
        volumes = {}
    return Tables(
        defaults, {name: each for name, each in volumes.items() if isinstance(each, dict)}
    )


def _has(values: Any, path: KeyPath) -> bool:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
