"""What one value of a manifest may be: each kind as a type, with its pattern for editors.

A pattern refuses nothing that the validator beside it takes. It may take more, for Python, Rust and
JavaScript all have to understand it.
"""

from typing import Annotated, Any, NoReturn
from unicodedata import category

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from mountd.core.idmapping import ID_COUNT, Refusal
from mountd.core.targets import KERNEL_FOLDERS, SYSTEM_FOLDERS, why_forbidden

OURS = "mountd"
"""pydantic's error type for messages of ours, which follow the key: "must not be /etc, …"."""


def refuse(message: str, extents: tuple[Refusal, ...] = ()) -> NoReturn:
    """End a validation by a predicate of ours, which follows the key's name."""
    raise PydanticCustomError(OURS, "{message}", {"message": message, "refusals": extents})


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:59]}…"


def normalised_path(path: str) -> str:
    """The path without a trailing `/`, `//` and `.`, so that equal paths compare equal."""
    if "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


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
_MOST_BYTES = 4095  # PATH_MAX without the final NUL


def _why_unprintable(text: str) -> str | None:
    if not text.isprintable() and any(category(each) == "Cc" for each in text):
        return "must have no newline, NUL or other control character in it"
    return None


def _path(path: str) -> str:
    if why := why_no_path(path):
        refuse(why)
    return normalised_path(path)


def _target(path: str, info: ValidationInfo) -> str:
    """`info.context` is what no target may cover, by path."""
    if why := why_forbidden(path, info.context or {}):
        refuse(f"must not be {path}: it is {why}")
    return path


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


def _user(value: str) -> str:
    if why := why_no_user(value):
        refuse(why)
    return value


def number_in_words(number: int) -> str:
    """An integer as a sentence shows it: Python writes none of more than 4,300 digits."""
    return str(number) if abs(number) < 10**_MOST_DIGITS else "a number of so many digits"


_MOST_DIGITS = 40


def _number_as_text(value: Any) -> Any:
    if type(value) is not int:
        return value
    if abs(value) >= 10**_MOST_DIGITS:
        refuse(f"must have ids from 0 to {ID_COUNT - 1}, not {number_in_words(value)}")
    return str(value)


def _owner(value: str) -> str:
    parts = value.split(":")
    if len(parts) != 2 or not all(map(_is_number, parts)):
        refuse(f"must be `uid:gid`, both numbers, not `{_short(value)}`")
    if why := _why_no_ids(*parts):
        refuse(why)
    return value


def _fs_type(name: str) -> str:
    if not name or "/" in name or _why_unprintable(name):
        refuse(f"must be a filesystem type as in /proc/filesystems, not `{_short(name)}`")
    return name


def _option(option: str) -> str:
    if not option.partition("=")[0]:
        refuse(f"must be `key=value` or `flag`, not `{_short(option)}`")
    if why := _why_unprintable(option):
        refuse(why)
    return option


def _subdir(path: str) -> str:
    if why := _why_unsafe(path):
        refuse(why)
    folder = normalised_path(f"/{path}")[1:]
    if path.startswith("/") or not folder:
        refuse(f"must be the relative path of a folder in the filesystem, not `{_short(path)}`")
    return folder


_CONTROL = r"\x00-\x1f\x7f-\x9f"
_UP = r"(^|/)\.\.(/|$)"
_SYSTEM = "|".join(sorted(each[1:] for each in SYSTEM_FOLDERS))
_KERNEL = "|".join(each.strip("/") for each in KERNEL_FOLDERS)
_FORBIDDEN = rf"^/+(({_SYSTEM}|lib[^/]*)/*$|({_KERNEL})/)"


def _text(pattern: str, never: str | None = None) -> WithJsonSchema:
    """A string that an editor is to check by these."""
    denied = {"not": {"pattern": never}} if never else {}
    return WithJsonSchema({"type": "string", "pattern": pattern, **denied})


Path = Annotated[str, AfterValidator(_path), _text(rf"^/[^{_CONTROL}]*$", _UP)]
Target = Annotated[
    str,
    AfterValidator(_path),
    AfterValidator(_target),
    _text(rf"^/[^{_CONTROL}]*$", f"{_UP}|{_FORBIDDEN}"),
]
Subdir = Annotated[str, AfterValidator(_subdir), _text(rf"^[^/{_CONTROL}][^{_CONTROL}]*$", _UP)]
FsType = Annotated[str, AfterValidator(_fs_type), _text(rf"^[^/{_CONTROL}]+$")]
Option = Annotated[str, AfterValidator(_option), _text(rf"^[^={_CONTROL}][^{_CONTROL}]*$")]
Owner = Annotated[str, AfterValidator(_owner), _text("^[0-9]+:[0-9]+$")]
User = Annotated[
    str,
    AfterValidator(_user),
    BeforeValidator(_number_as_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^[^:{_CONTROL}]+(:[^:{_CONTROL}]+)?$"},
                {"type": "integer", "minimum": 0, "maximum": ID_COUNT - 1},
            ]
        }
    ),
]
VolumeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
