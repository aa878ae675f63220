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


def why_no_path(text: str) -> str | None:
    """What is wrong with an absolute path, to follow its key's name."""
    if not text.startswith("/"):
        return f"must be an absolute path, not `{_short(text)}`"
    if ".." in text or not text.isprintable():  # both are rare
        return _why_unsafe(text)
    return None


def why_no_fs_source(text: str) -> str | None:
    """What is wrong with a filesystem's own source: a tag, a device, whatever its driver takes."""
    return _why_unprintable(text) if text else "must not be empty"


def _why_unsafe(path: str) -> str | None:
    if ".." in path and ".." in path.split("/"):
        return "must have no `..` in it"
    return _why_unprintable(path)


def _why_unprintable(text: str) -> str | None:
    if not text.isprintable() and any(category(each) == "Cc" for each in text):
        return "must have no newline, NUL or other control character in it"
    return None


def _path(path: str) -> str:
    if why := why_no_path(path):
        _refuse(why)
    return normalised_path(path)


def _target(path: str, info: ValidationInfo) -> str:
    """`info.context` is what no target may cover, by path."""
    if why := why_forbidden(path, info.context or {}):
        _refuse(f"must not be {path}: it is {why}")
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
        _refuse(why)
    return value


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _owner(value: str) -> str:
    parts = value.split(":")
    if len(parts) != 2 or not all(map(_is_number, parts)):
        _refuse(f"must be `uid:gid`, both numbers, not `{_short(value)}`")
    if why := _why_no_ids(*parts):
        _refuse(why)
    return value


def _fs_type(name: str) -> str:
    if not name or "/" in name or _why_unprintable(name):
        _refuse(f"must be a filesystem type as in /proc/filesystems, not `{_short(name)}`")
    return name


def _option(option: str) -> str:
    if not option.partition("=")[0]:
        _refuse(f"must be `key=value` or `flag`, not `{_short(option)}`")
    if why := _why_unprintable(option):
        _refuse(why)
    return option


def _subdir(path: str) -> str:
    if why := _why_unsafe(path):
        _refuse(why)
    folder = normalised_path(f"/{path}")[1:]
    if path.startswith("/") or not folder:
        _refuse(f"must be the relative path of a folder in the filesystem, not `{_short(path)}`")
    return folder


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
    type: Annotated[str, AfterValidator(_fs_type)] | None = None
    options: list[Annotated[str, AfterValidator(_option)]] | None = None
    subdir: Annotated[str, AfterValidator(_subdir)] | None = None
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
    """`[volumes.NAME]`. What its `source` may be depends on `type`, which may be elsewhere."""

    source: str | None = None
    target: Annotated[Path, AfterValidator(_target)] | None = None


VolumeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class ManifestTable(_Table):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    defaults: DefaultsTable = DefaultsTable()
    volumes: dict[VolumeName, VolumeTable] = {}
