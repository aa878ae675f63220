"""The models that validate a manifest, and describe its keys. Rules of tables are rules.py's.

A key's description begins with what it says in a line, and ends with its default, where that is no
value of TOML. Editors show it; mountd.toml(5) and the README's table are made of it.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from mountd.core.idmapping import ID_COUNT, MAX_EXTENTS, Extent, refusals
from mountd.manifest.fields import (
    FsType,
    Option,
    Owner,
    Path,
    Subdir,
    Target,
    User,
    VolumeName,
    refuse,
)
from mountd.manifest.values import MOST_OPTIONS


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ExtentTable(_Table):
    """A run of ids: `stored` on the source's filesystem, `seen` at the target."""

    stored: Annotated[int, Field(ge=0, lt=ID_COUNT, description="The first id as it is stored.")]
    seen: Annotated[int, Field(ge=0, lt=ID_COUNT, description="The id that it is seen as.")]
    count: Annotated[int, Field(ge=0, le=ID_COUNT, description="How many ids, with these first.")]


def _extents(tables: list[ExtentTable]) -> list[ExtentTable]:
    extents = tuple(Extent(each.stored, each.seen, each.count) for each in tables)
    if found := refusals(extents):
        refuse("can't be an idmapping", tuple(found))
    return tables


Extents = Annotated[
    list[ExtentTable],
    AfterValidator(_extents),
    Field(json_schema_extra={"minItems": 1, "maxItems": MAX_EXTENTS}),
]


class IdmapTable(_Table):
    """Extents as the kernel takes them; a list that is left out maps each id to itself."""

    uids: Extents | None = None
    gids: Extents | None = None


def _idmap_form(value: Any) -> str:
    return "table" if isinstance(value, dict) else "word"


Idmap = Annotated[
    Annotated[Literal["auto", "always", "never"], Tag("word")]
    | Annotated[IdmapTable, Tag("table")],
    Discriminator(_idmap_form),
]


class DefaultsTable(_Table):
    """`[defaults]`: every key of a volume but `source` and `target`."""

    type: FsType | None = Field(
        None,
        description="A filesystem that is mounted for it, such as `virtiofs`, `ext4`, `tmpfs`. "
        "It is mounted once for all volumes of the same `type`, `source` and `options`, below "
        "`/run/mountd/fs`, where only root gets; a `tmpfs` or `ramfs` whose source is `tmpfs`, "
        "`ramfs` or `none` is its volume's own. Default: none; `source` is a path.",
    )
    options: list[Option] | None = Field(
        None,
        max_length=MOST_OPTIONS,
        description="A list of the filesystem's options, `key=value` or `flag`. "
        "There may be 1,000 of them. It goes with `type` only. Default: `[]`.",
    )
    subdir: Subdir | None = Field(
        None,
        description="The folder of the filesystem that is the source. "
        "It is a relative path, and goes with `type` only. Default: all of it.",
    )
    user: User | None = Field(
        None,
        description="Whom the owner appears as: `name`, `uid`, `name:group`, `uid:gid`. "
        "A uid alone may be an integer. Names are looked up in the files, never through NSS; until "
        "they are there the volume is pending. A uid that has no account and comes without a group "
        "leaves gids as they are. Default: nobody else, so no idmapping.",
    )
    owner: Owner | None = Field(
        None,
        description="`uid:gid` that own the source, as stored. Default: the source root's.",
    )
    accounts: Path = Field(
        "/",
        description="The root filesystem whose `etc/passwd` and `etc/group` know the names. "
        "That may be a container image's.",
    )
    idmap: Idmap = Field(
        "auto",
        description="`auto`, `always`, `never`, "
        "or extents `{ uids = [{ stored, seen, count }], gids = […] }`. `auto` makes no idmapping "
        "where the owner is the user, nor for a read-only volume that the user may read as it is; "
        "`always` makes one there too. Extents take the place of `user`: `count` ids from `stored` "
        "on are seen as those from `seen` on. A list that is left out maps each id to itself. Ids "
        "that extents don't cover are seen as 65534, and can't be written.",
    )
    fallback: Literal["plain", "fail"] = Field(
        "plain",
        description="Where an idmapping can't be had: "
        "`plain` mounts with raw ids and says so, `fail` doesn't.",
    )
    recursive: bool = Field(
        False,
        description="Include the mounts below the source. Those that appear or go later are not "
        "followed.",
    )
    read_only: bool | None = Field(
        None,
        description="Nothing can be written. "
        "`false` clears what the source's mount has. Default: as the source.",
    )
    noexec: bool | None = Field(
        None,
        description="No program can be run from it. "
        "`false` clears what the source's mount has. Default: as the source.",
    )
    nosuid: bool = Field(
        True, description="Setuid and setgid bits and file capabilities have no effect."
    )
    nodev: bool = Field(True, description="Device files can't be opened.")
    atime: Literal["relatime", "noatime", "strictatime"] | None = Field(
        None,
        description="`relatime`, `noatime`, `strictatime`. "
        "mount(8) tells what each means. Default: as the source.",
    )
    create: bool = Field(
        True,
        description="Make a missing target, owned as the folder it lies in; a home is waited for. "
        "It is a folder, or an empty file where the source is a file, with mode 0755, and so are "
        "the folders above it that are missing: the plan names each, and none is removed again. "
        "But the home of a regular account (uid 1000 to 59999), and any folder right below /home, "
        "is never made: `useradd -m` makes it with its files, and until then the volume is "
        "pending. With `false`, it is pending until its target is there.",
    )
    required: bool = Field(
        True, description="`false`: if it can't be mounted, the run doesn't fail."
    )
    enabled: bool = Field(
        True,
        description="`false`: as if it were not there. So a drop-in takes a volume off.",
    )


class VolumeTable(DefaultsTable):
    """`[volumes.NAME]`. What its `source` may be depends on `type`, which may be elsewhere."""

    source: str | None = Field(
        None,
        description="Absolute path of a folder or file; with `type`, a tag or device. "
        "It is required.",
    )
    target: Target | None = Field(
        None,
        description="Absolute path where it appears; the source itself, for a volume in place. "
        "No two volumes may have the same. It may not be a folder that the system needs as it is, "
        "such as `/etc`, nor lie below `/dev`, `/proc` or `/sys`. It is required.",
    )


class ManifestTable(_Table):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1, description="Of the format. There is but this.")] = 1
    defaults: DefaultsTable = DefaultsTable()
    volumes: dict[VolumeName, VolumeTable] = {}
