"""What is shipped and made of the source: schema, manual, completions."""

import json
import re
from typing import NamedTuple

from completion import completions
from documents import document_schema
from docutils.core import publish_string
from package import PROJECT, VERSION
from pydantic.fields import FieldInfo

from mountd.manifest.json_schema import manifest_schema
from mountd.manifest.schema import VolumeTable

MANUAL = PROJECT / "docs/man"
_KEYS_COME_HERE = re.compile(r"^\.\. Here come the keys .*$", re.MULTILINE)


def shipped() -> dict[str, str]:
    """The text of each file by its path below `share/`."""
    pages = {
        f"man/man{each.suffixes[-2][1:]}/{each.stem}": _page(each.read_text())
        for each in MANUAL.glob("*.rst")
    }
    schema = json.dumps(manifest_schema(), indent=2) + "\n"
    document = json.dumps(document_schema(), indent=2) + "\n"
    schemas = {"mountd/document.schema.json": document, "mountd/mountd.schema.json": schema}
    return {**schemas, **pages, **completions()}


class Key(NamedTuple):
    """A key of a volume as it is described: in a line, what more there is to it, its default."""

    line: str
    more: str
    default: str


def keys() -> dict[str, Key]:
    """The keys of a volume, `source` and `target` first."""
    fields = VolumeTable.model_fields
    return {name: _described(fields[name]) for name in ("source", "target", *fields)}


def _described(field: FieldInfo) -> Key:
    text, _, default = (field.description or "").partition(" Default: ")
    line, _, more = text.removesuffix(".").partition(". ")
    if not default:
        value = str(field.default).lower()
        default = "required" if field.default is None else f"`{value}`"
    return Key(line, f"{more}." if more else "", default.removesuffix("."))


def _page(source: str) -> str:
    """A page of the manual in man(7)'s language."""
    entries = []
    for name, (line, more, default) in keys().items():
        last = "" if default == "required" else f"Default: {default}."
        entries.append(f"``{name}``\n   {_markdown(f'{line}. {more} {last}')}\n")
    source = _KEYS_COME_HERE.sub(lambda _: "\n".join(entries), source)
    source = source.replace(":Date:", f":Version: mountd {VERSION}\n:Date:", 1)
    settings = {"report_level": 2, "halt_level": 2, "output_encoding": "unicode"}
    page = publish_string(source, writer="manpage", settings_overrides=settings)
    page = page[page.index(".nr ") :]
    page = re.sub(r"^\.SH .*$", lambda title: title[0].upper(), page, flags=re.MULTILINE)
    page = re.sub(r"^(\.SH .*\n)\.sp\n", r"\1", page, flags=re.MULTILINE)
    return f".nr HY 0\n{page}"  # no `[de-` at a line's end


def _markdown(text: str) -> str:
    """Markdown's code in reStructuredText."""
    return re.sub(r"`([^`]+)`", r"``\1``", text)
