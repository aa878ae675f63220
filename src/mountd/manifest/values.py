"""What one value of a manifest may be: predicates that say what is wrong with it.

What they say follows the key's name: "must not be empty". None: nothing is wrong.
"""

from collections.abc import Mapping

from mountd.core.idmapping import ID_COUNT
from mountd.core.targets import normalised_path, why_forbidden

NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""The pattern of a volume's name."""


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:59]}…"


def why_no_path(text: str) -> str | None:
    """What is wrong with an absolute path, to follow its key's name."""
    if not text.startswith("/"):
        return f"must be an absolute path, not `{_short(text)}`"
    if ".." in text or not text.isprintable() or len(text) > _LONG:  # all are rare
        return _why_unsafe(text)
    return None


def why_no_fs_source(text: str) -> str | None:
    """What is wrong with a filesystem's own source: a tag, a device, whatever its driver takes."""
    return _why_unprintable(text) if text else "must not be empty"


def _why_unsafe(path: str) -> str | None:
    if ".." in path and ".." in path.split("/"):
        return "must have no `..` in it"
    if len(path) > _LONG and (size := len(path.encode())) > _MOST_BYTES:
        return f"is {size} bytes long, and the kernel takes paths of {_MOST_BYTES} at most"
    return _why_unprintable(path)


_LONG = 255
MOST_OPTIONS = 1000
"""Twice what overlay takes as layers, each of which may be an option of its own."""
_MOST_BYTES = 4095  # PATH_MAX without the final NUL


def _why_unprintable(text: str) -> str | None:
    if not text.isprintable() and any(each < " " or "\x7f" <= each < "\xa0" for each in text):
        return "must have no newline, NUL or other control character in it"
    return None


def why_no_target(path: str, reserved: Mapping[str, str]) -> str | None:
    """What is wrong with a target; `reserved` is what none may cover, by path."""
    if said := why_no_path(path):
        return said
    path = normalised_path(path)
    why = why_forbidden(path, reserved)
    return f"must not be {path}: it is {why}" if why else None


def _is_number(part: str) -> bool:
    return part.isascii() and part.removeprefix("-").isdigit()


def _why_no_ids(*parts: str) -> str | None:
    for part in parts:
        digits = part.lstrip("0")
        if part.startswith("-") or len(digits) > 10 or int(digits or "0") >= ID_COUNT:
            return f"must have ids from 0 to {ID_COUNT - 1}, not `{_short(part)}`"
    return None


def why_no_user(text: str) -> str | None:
    """What is wrong with a user, to follow its key's name."""
    name, colon, group = text.partition(":")
    if not name or (colon and not group) or ":" in group or not text.isprintable():
        return f"must be `name`, `uid`, `name:group` or `uid:gid`, not `{_short(text)}`"
    return _why_no_ids(*filter(_is_number, (name, group)))


def number_in_words(number: int) -> str:
    """An integer as a sentence shows it: Python writes none of more than 4,300 digits."""
    return str(number) if abs(number) < 10**_MOST_DIGITS else "a number of so many digits"


_MOST_DIGITS = 40


def why_no_number(number: int) -> str | None:
    """What is wrong with a number that stands for a user, but for its being too large."""
    if abs(number) < 10**_MOST_DIGITS:
        return None
    return f"must have ids from 0 to {ID_COUNT - 1}, not {number_in_words(number)}"


def why_no_owner(text: str) -> str | None:
    """What is wrong with who owns a source."""
    parts = text.split(":")
    if len(parts) != 2 or not all(map(_is_number, parts)):
        return f"must be `uid:gid`, both numbers, not `{_short(text)}`"
    return _why_no_ids(*parts)


_PATHS = "must be left out where the source is a path"
NO_TYPES = {
    "none": _PATHS,
    "bind": _PATHS,
    "rbind": f"{_PATHS}, with `recursive = true` for what is mounted below it",
    "auto": "must name the filesystem itself, which `blkid` shows of a device",
    "swap": "must be a filesystem's",
}
"""What stands for the type in fstab(5), mount(8) and OCI's configuration, and is none."""


def why_no_fs_type(name: str) -> str | None:
    """What is wrong with a filesystem's type."""
    if name in NO_TYPES:
        return f"{NO_TYPES[name]}, not `{name}`"
    if not name or "/" in name or _why_unprintable(name):
        return f"must be a filesystem type as in /proc/filesystems, not `{_short(name)}`"
    return None


def why_no_option(option: str) -> str | None:
    """What is wrong with a filesystem's option."""
    if not option.partition("=")[0]:
        return f"must be `key=value` or `flag`, not `{_short(option)}`"
    return _why_unprintable(option)


def why_no_subdir(path: str) -> str | None:
    """What is wrong with a folder of a filesystem."""
    if why := _why_unsafe(path):
        return why
    if path.startswith("/") or not normalised_subdir(path):
        return f"must be the relative path of a folder in the filesystem, not `{_short(path)}`"
    return None


def normalised_subdir(path: str) -> str:
    """The folder without a trailing `/`, `//` and `.`."""
    return normalised_path(f"/{path}")[1:]
