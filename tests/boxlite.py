"""The tables of docs/boxlite.md, and how what mountd does is said there."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from package import PROJECT

_PAGE = (PROJECT / "docs/boxlite.md").read_text()
ERROR = "an error of the manifest"


class Case(NamedTuple):
    """A row of the first table."""

    number: int
    owners: tuple[str, ...]
    """As stored: of the shared folder, and of folders in it. None where it is another's target."""
    user: str
    is_read_only: bool
    outcome: str


def cases() -> list[Case]:
    """The first table."""
    return [
        Case(int(number), tuple(re.findall(r"\d+:\d+", owner)), user, mode == "ro", outcome)
        for number, owner, user, mode, _, outcome in _rows(6)
        if number.isdigit()
    ]


def users() -> dict[str, str]:
    """The second table: what mountd makes of a user's name."""
    rows = [(user, outcome) for user, _, outcome in _rows(3)]
    return {"" if user[0] != "`" else user.strip("`"): outcome for user, outcome in rows[2:]}


def _rows(length: int) -> list[list[str]]:
    lines = [line[2:-2].split(" | ") for line in _PAGE.splitlines() if line.startswith("| ")]
    return [line for line in lines if len(line) == length]


def outcome(volume: Mapping[str, Any], seen: Iterable[tuple[str, str]]) -> str:
    """A volume of the JSON document, and as whose its owners are seen, in the table's words."""
    idmap = volume["idmap"]
    if volume["fallback"]:
        done = f"`{volume['reason']}`, its idmapping stays"
    elif idmap:
        kinds = (("uid", idmap["uids"]), ("gid", idmap["gids"]))
        done = ", ".join(f"{kind} {pair}" for kind, extents in kinds for pair in _swapped(extents))
    else:
        done = "no idmapping"
    return f"{done}; {', '.join(_as_seen(seen))}"


def _swapped(extents: Iterable[Mapping[str, int]]) -> list[str]:
    moved = [(each["stored"], each["seen"]) for each in extents if each["stored"] != each["seen"]]
    return [f"{stored}↔{seen}" for stored, seen in moved if stored < seen]


def _as_seen(seen: Iterable[tuple[str, str]]) -> list[str]:
    (stored, first), *others = seen
    return [f"{stored} is seen as {first}", *(f"{each} as {other}" for each, other in others)]
