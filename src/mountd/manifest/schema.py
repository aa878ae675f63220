"""The models that validate a manifest: what each key may hold. Rules of tables are load.py's."""

from typing import Annotated, Any, Literal, NoReturn
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from mountd.core.idmapping import ID_COUNT, Extent, Refusal, refusals
from mountd.core.targets import why_forbidden

OURS = "mountd"
"""The type of the errors whose message is a whole predicate of ours: "must not be /etc, …"."""


def _refuse(message: str, extents: tuple[Refusal, ...] = ()) -> NoReturn:
    raise PydanticCustomError(OURS, "{message}", {"message": message, "refusals": extents})


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:59]}…"


def normalised_path(path: str) -> str:
    """The path without a trailing `/`, `//` and `.`, so that equal paths compare equal."""
    if "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


def _path(path: str) -> str:
    if not path.startswith("/"):
        _refuse(f"must be an absolute path, not `{_short(path)}`")
    if ".." in path and ".." in path.split("/"):
        _refuse("must have no `..` in it")
    if not path.isprintable() and any(category(each) == "Cc" for each in path):
        _refuse("must have no newline, NUL or other control character in it")
    return normalised_path(path)


def _target(path: str, info: ValidationInfo) -> str:
    """`info.context` is what no target may cover, by path."""
    if why := why_forbidden(path, info.context or {}):
        _refuse(f"must not be {path}: it is {why}")
    return path


def _is_number(part: str) -> bool:
    return part.isascii() and part.removeprefix("-").isdigit()


def _check_ids(*parts: str) -> None:
    for part in parts:
        digits = part.lstrip("0")
        if part.startswith("-") or len(digits) > 10 or int(digits or "0") >= ID_COUNT:
            _refuse(f"must have ids from 0 to {ID_COUNT - 1}, not `{_short(part)}`")


def _user(value: str) -> str:
    name, colon, group = value.partition(":")
    if not name or (colon and not group) or ":" in group or not value.isprintable():
        _refuse(f"must be `name`, `uid`, `name:group` or `uid:gid`, not `{_short(value)}`")
    _check_ids(*filter(_is_number, (name, group)))
    return value


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _owner(value: str) -> str:
    parts = value.split(":")
    if len(parts) != 2 or not all(map(_is_number, parts)):
        _refuse(f"must be `uid:gid`, both numbers, not `{_short(value)}`")
    _check_ids(*parts)
    return value


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ExtentTable(_Table):
    """A run of ids: `stored` on the source's filesystem, `seen` at the target."""

    stored: Annotated[int, Field(ge=0, lt=ID_COUNT)]
    seen: Annotated[int, Field(ge=0, lt=ID_COUNT)]
    count: Annotated[int, Field(ge=0, le=ID_COUNT)]


def _extents(tables: list[ExtentTable]) -> list[ExtentTable]:
    extents = tuple(Extent(each.stored, each.seen, each.count) for each in tables)
    if found := refusals(extents):
        _refuse("can't be an idmapping", tuple(found))
    return tables


Extents = Annotated[list[ExtentTable], AfterValidator(_extents)]


class IdmapTable(_Table):
    """Extents as the kernel takes them; a list that is left out maps each id to itself."""

    uids: Extents | None = None
    gids: Extents | None = None


def _idmap_form(value: Any) -> str:
    return "table" if isinstance(value, dict) else "word"


Path = Annotated[str, AfterValidator(_path)]
Idmap = Annotated[
    Annotated[Literal["auto", "always", "never"], Tag("word")]
    | Annotated[IdmapTable, Tag("table")],
    Discriminator(_idmap_form),
]


class DefaultsTable(_Table):
    """`[defaults]`: every key of a volume but `source` and `target`."""

    user: Annotated[str, AfterValidator(_user), BeforeValidator(_number_as_text)] | None = None
    owner: Annotated[str, AfterValidator(_owner)] | None = None
    accounts: Path = "/"
    idmap: Idmap = "auto"
    fallback: Literal["plain", "fail"] = "plain"
    recursive: bool = False
    read_only: bool | None = None
    nosuid: bool = True
    nodev: bool = True
    noexec: bool | None = None
    atime: Literal["relatime", "noatime", "strictatime"] | None = None
    create: bool = True
    required: bool = True
    enabled: bool = True


class VolumeTable(DefaultsTable):
    """`[volumes.NAME]`."""

    source: Path | None = None
    target: Annotated[Path, AfterValidator(_target)] | None = None


VolumeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class ManifestTable(_Table):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    defaults: DefaultsTable = DefaultsTable()
    volumes: dict[VolumeName, VolumeTable] = {}
