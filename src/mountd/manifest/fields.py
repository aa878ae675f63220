"""What one value of a manifest may be, as pydantic's types, each with its pattern for editors.

A pattern refuses nothing that the validator beside it takes. It may take more, for Python, Rust and
JavaScript all have to understand it.
"""

from collections.abc import Callable
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from mountd.core.idmapping import ID_COUNT, Refusal
from mountd.core.targets import KERNEL_FOLDERS, SYSTEM_FOLDERS, normalised_path
from mountd.manifest.values import (
    NAME,
    NO_TYPES,
    normalised_subdir,
    why_no_fs_type,
    why_no_number,
    why_no_option,
    why_no_owner,
    why_no_path,
    why_no_subdir,
    why_no_target,
    why_no_user,
)

OURS = "mountd"
"""pydantic's error type for messages of ours, which follow the key: "must not be /etc, …"."""


def refuse(message: str, extents: tuple[Refusal, ...] = ()) -> NoReturn:
    """End a validation by a predicate of ours, which follows the key's name."""
    raise PydanticCustomError(OURS, "{message}", {"message": message, "refusals": extents})


def _by(why: Callable[[str], str | None]) -> AfterValidator:
    """A validator that refuses what has something wrong with it."""

    def see(value: str) -> str:
        if said := why(value):
            refuse(said)
        return value

    return AfterValidator(see)


def _target(path: str, info: ValidationInfo) -> str:
    """`info.context` is what no target may cover, by path."""
    if why := why_no_target(path, info.context or {}):
        refuse(why)
    return normalised_path(path)


def _number_as_text(value: Any) -> Any:
    if type(value) is not int:
        return value
    if why := why_no_number(value):
        refuse(why)
    return str(value)


_CONTROL = r"\x00-\x1f\x7f-\x9f"
_UP = r"(^|/)\.\.(/|$)"
_SYSTEM = "|".join(sorted(each[1:] for each in SYSTEM_FOLDERS))
_KERNEL = "|".join(each.strip("/") for each in KERNEL_FOLDERS)
_FORBIDDEN = rf"^/+(({_SYSTEM}|lib[^/]*)/*$|({_KERNEL})/)"


def _text(pattern: str, never: str | None = None) -> WithJsonSchema:
    """A string that an editor is to check by these."""
    denied = {"not": {"pattern": never}} if never else {}
    return WithJsonSchema({"type": "string", "pattern": pattern, **denied})


Path = Annotated[
    str, _by(why_no_path), AfterValidator(normalised_path), _text(rf"^/[^{_CONTROL}]*$", _UP)
]
Target = Annotated[
    str,
    AfterValidator(_target),
    _text(rf"^/[^{_CONTROL}]*$", f"{_UP}|{_FORBIDDEN}"),
]
Subdir = Annotated[
    str,
    _by(why_no_subdir),
    AfterValidator(normalised_subdir),
    _text(rf"^[^/{_CONTROL}][^{_CONTROL}]*$", _UP),
]
FsType = Annotated[
    str, _by(why_no_fs_type), _text(rf"^[^/{_CONTROL}]+$", f"^({'|'.join(NO_TYPES)})$")
]
Option = Annotated[str, _by(why_no_option), _text(rf"^[^={_CONTROL}][^{_CONTROL}]*$")]
Owner = Annotated[str, _by(why_no_owner), _text("^[0-9]+:[0-9]+$")]
User = Annotated[
    str,
    _by(why_no_user),
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
VolumeName = Annotated[str, Field(pattern=f"^{NAME}$")]
