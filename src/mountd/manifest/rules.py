"""What is wrong with tables as wholes, once they are merged; told beside what is wrong with values.

The values are as they are written: any may be of a wrong type, which is the schema's to tell.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mountd.core.nesting import Paths, account_files, circles, needs, paths_in
from mountd.core.targets import is_within, normalised_path
from mountd.manifest.merge import MergedDocuments
from mountd.manifest.problem import Problem
from mountd.manifest.spans import KeyPath, dotted
from mountd.manifest.values import why_no_fs_source, why_no_path

_OF_FILESYSTEMS = {
    "options": "only a filesystem has options: say its `type`, or remove them",
    "subdir": "say the filesystem's `type`, or let `source` name the folder itself",
}
_MOST_NAMED = 10


def rule_problems(merged: MergedDocuments, *, is_whole: bool) -> Iterator[Problem]:
    """Every problem. Where a part of the manifest is unknown, no volume counts as incomplete."""
    if _has_user_and_extents(merged.defaults):
        yield _both(merged, ("defaults",))
    by_default = _OF_FILESYSTEMS.keys() & merged.defaults.keys()
    is_enabled = merged.defaults.get("enabled")
    volumes = {
        name: own
        for name, own in merged.volumes.items()
        if own.get("enabled", is_enabled) is not False
    }
    told: set[KeyPath] = set()
    for name, own in volumes.items():
        if is_whole and ("source" not in own or "target" not in own):
            yield from _missing(merged, name, own)
        if _has_user_and_extents(own):
            yield _both(merged, ("volumes", name))
        has_type = merged.has_type(own)
        if not has_type and (by_default or not own.keys().isdisjoint(_OF_FILESYSTEMS)):
            yield from _without_type(merged, name, own, told)
        why = why_no_fs_source if has_type else why_no_path
        if isinstance(source := own.get("source"), str) and (said := why(source)):
            path = ("volumes", name, "source")
            yield merged.problem(path, f"`{dotted(path)}` {said}")
    yield from _place_problems(merged, volumes)


def _place_problems(
    merged: MergedDocuments, volumes: dict[str, dict[str, Any]]
) -> Iterator[Problem]:
    """Compare the volumes' targets with each other, and with what volumes are made of."""
    first: dict[str, str] = {}  # which volume has a target
    places: dict[str, tuple[Paths, str]] = {}
    for name, own in volumes.items():
        source, target = own.get("source"), own.get("target")
        if not isinstance(target, str) or why_no_path(target):
            continue  # it is told beside its value
        target = normalised_path(target)
        if first.setdefault(target, name) != name:
            yield _same_target(merged, target, name, first[target])
        others = _other_places(merged, own)
        if merged.has_type(own) or not isinstance(source, str) or why_no_path(source):
            places[name] = others, target
            continue
        source = normalised_path(source)
        places[name] = (source, *others), target
        if source.startswith(f"{target}/"):
            path = ("volumes", name, "source")
            message = f"`{dotted(path)}` lies below its own target, which would cover it"
            yield merged.problem(path, message)
        elif source != target and any(is_within(each, target) for each in others):
            yield from _own_accounts(merged, name, own, source, target)
    for names in circles(needs(places)):
        yield _circle(merged, names)


def _other_places(merged: MergedDocuments, own: Mapping[str, Any]) -> Paths:
    """What a volume is made of besides its source: where its user is looked up, its options."""
    values = {**merged.defaults, **own}
    user, accounts, options = (values.get(key) for key in ("user", "accounts", "options"))
    found: list[str] = []
    if isinstance(user, int):
        user = "0"  # any uid: its group is looked up
    accounts = "/" if accounts is None else accounts
    if isinstance(user, str) and isinstance(accounts, str) and not why_no_path(accounts):
        found += account_files(normalised_path(accounts), user)
    if isinstance(options, list):
        found += paths_in(each for each in options if isinstance(each, str))
    return (*found,)


def _own_accounts(
    merged: MergedDocuments, name: str, own: Mapping[str, Any], source: str, target: str
) -> Iterator[Problem]:
    """Accounts that the volume itself would bring; those of `/` are there without it."""
    accounts = own.get("accounts", merged.defaults.get("accounts", "/"))
    if accounts == "/":
        return
    path = ("volumes", name, "accounts" if "accounts" in own else "target")
    message = f"`{dotted(path)}`: the user would be looked up in what is yet to be mounted there"
    hint = None
    if is_within(normalised_path(accounts), target):
        inside = normalised_path(accounts)[len(target) :]
        hint = f'look it up in the source: `accounts = "{source.rstrip("/")}{inside}"`'
    yield merged.problem(path, message, hint)


def _missing(merged: MergedDocuments, name: str, own: Mapping[str, Any]) -> Iterator[Problem]:
    files = [each.file for each in merged.documents]
    read = ""
    if len(files) > 1:
        more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
        read = f"; read were {', '.join(files[:_MOST_NAMED])}{more}"
    for key in ("source", "target"):
        if key not in own:
            message = f"`{dotted(('volumes', name, key))}` is missing{read}"
            hint = "every volume has a source and a target"
            yield merged.problem(("volumes", name), message, hint)


def _has_user_and_extents(table: Mapping[str, Any]) -> bool:
    return "user" in table and isinstance(table.get("idmap"), Mapping)


def _both(merged: MergedDocuments, table: KeyPath) -> Problem:
    user, idmap = (*table, "user"), (*table, "idmap")
    message = f"`{dotted(user)}` can't stand beside the extents in `idmap`"
    place = merged.place(idmap, beside=user)
    elsewhere = "" if place.startswith("line ") else f"; the extents are in {place}"
    return merged.problem(user, message, f"either says who is seen{elsewhere}", at_key=True)


def _without_type(
    merged: MergedDocuments, name: str, own: Mapping[str, Any], told: set[KeyPath]
) -> Iterator[Problem]:
    """Keys that go with `type`; one of the defaults is told once, for whichever volume."""
    for key, hint in _OF_FILESYSTEMS.items():
        if own.get(key, merged.defaults.get(key)):
            path: KeyPath = ("volumes", name, key) if key in own else ("defaults", key)
            if path not in told:
                told.add(path)
                message = f"`{dotted(path)}` goes with `type`, which volume `{name}` doesn't have"
                yield merged.problem(path, message, hint, at_key=True)


def _same_target(merged: MergedDocuments, target: str, name: str, first: str) -> Problem:
    path, other = ("volumes", name, "target"), ("volumes", first, "target")
    message = f"`{dotted(path)}` is {target}, as `{dotted(other)}` is"
    return merged.problem(path, message, f"which is in {merged.place(other, beside=path)}")


def _circle(merged: MergedDocuments, names: tuple[str, ...]) -> Problem:
    more = ", …" if len(names) > _MOST_NAMED else ""
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    message = f"volumes need each other in a circle: {shown}{more}, `{names[0]}`"
    hint = (
        "each has its source, its accounts or a path in its options at or below the target of the"
        " next, or its own target below that"
    )
    return merged.problem(("volumes", names[0]), message, hint)
