"""A manifest's files → volumes: read safely, parsed, validated, merged."""

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from mountd.core.idmapping import Idmapping
from mountd.core.model import Ids, Volume
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import normalised_path
from mountd.manifest.document import Document
from mountd.manifest.layers import SEARCH_PATH, Layers
from mountd.manifest.merge import MergedDocuments, Tables, merged
from mountd.manifest.plain import plain_tables
from mountd.manifest.problem import ManifestError, Problem
from mountd.manifest.rules import rule_problems

MOST_BYTES = 1 << 20


class Manifest(NamedTuple):
    """The volumes of a manifest in its order; `warnings` tell who else could have written it.

    `files` are those that were read. Not `is_whole`: there are credentials that can't be read, so
    what is missing may be in them. `is_part`: it was cut down to some of its volumes.
    """

    id: str
    files: tuple[str, ...]
    volumes: tuple[Volume, ...]
    warnings: tuple[str, ...]
    is_whole: bool
    reserved: Mapping[str, str]
    """What no target may cover, by path."""
    is_part: bool = False

    def part(self, names: Container[str]) -> "Manifest":
        """These volumes of it alone."""
        volumes = tuple(each for each in self.volumes if each.name in names)
        return self._replace(volumes=volumes, is_part=True)


class Reading(NamedTuple):
    """A file's bytes, and a sentence for each way in which others than root could write them.

    `is_null`: it is a link to /dev/null, as systemd masks a file.
    """

    content: bytes
    distrusts: tuple[str, ...]
    is_null: bool = False


class UnreadableError(Exception):
    """A file can't be read: why, in words, and what to do about it.

    `is_withheld`: it is there and may be as it should be, but this process doesn't get it;
    `is_silent`: because its server doesn't answer. `is_dangling`: of what is missing there is a
    link.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        is_withheld: bool = False,
        is_missing: bool = False,
        is_dangling: bool = False,
        is_silent: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.is_withheld = is_withheld
        self.is_missing = is_missing
        self.is_dangling = is_dangling
        self.is_silent = is_silent

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint), self.__dict__


def load_manifest(
    layers: Layers, read: Callable[[str], Reading], reserved: Mapping[str, str], *, is_acting: bool
) -> Manifest:
    """Read, validate and merge a manifest; `reserved` is what no target may cover, by path.

    Raises ManifestError with everything that is wrong. Where root is to act on it (`is_acting`), a
    file that someone else could have written is wrong; otherwise that is a warning.
    """
    files = _read(layers, read, is_acting=is_acting)
    problems = files.problems
    if not problems:  # else what is missing may be in a file that can't be read
        problems += rule_problems(MergedDocuments(files.documents), is_whole=not files.withheld)
    tables = []
    for document in files.documents:
        try:
            tables.append(plain_tables(document.values, reserved) or _judged(document, reserved))
        except ManifestError as error:
            problems += error.problems
    if problems:
        raise ManifestError(problems, layers.files + layers.credentials)
    withheld = [f"{each}; so nothing is unmounted in this pass" for each in files.withheld]
    return Manifest(
        layers.id,
        tuple(document.file for document in files.documents),
        tuple(_volumes(merged(tables))),
        tuple(dict.fromkeys(files.warnings + withheld)),  # drop-ins share folders
        not withheld,
        reserved,
    )


def _judged(document: Document, reserved: Mapping[str, str]) -> Tables:
    from mountd.manifest.judge import judged_tables  # noqa: PLC0415 - pydantic is half of a start

    return judged_tables(document, reserved)


def read_documents(layers: Layers, read: Callable[[str], Reading]) -> MergedDocuments:
    """What a manifest's values are read from: it knows where each stands."""
    return MergedDocuments(_read(layers, read, is_acting=False).documents)


class _Files(NamedTuple):
    """What reading came to: the documents, and sentences on what stands in the way of others."""

    documents: list[Document]
    problems: list[Problem]
    warnings: list[str]
    withheld: list[str]
    """Credentials that are there and can't be read."""


def _read(layers: Layers, read: Callable[[str], Reading], *, is_acting: bool) -> _Files:
    files = _Files([], [*layers.problems], [], [*layers.warnings])
    for file in layers.files + layers.credentials:
        try:
            content, distrusts, is_null = read(file)
            if distrusts and is_acting:
                files.problems.extend(_distrusted(file, each) for each in distrusts)
                continue
            files.warnings.extend(f"{each}: a pass by root refuses that" for each in distrusts)
            if file == layers.main and not content and not is_null:
                files.problems.append(_empty(file))
                continue
            files.documents.append(Document(file, content))
        except UnreadableError as error:
            if file in layers.credentials and (error.is_withheld or error.is_dangling):
                files.withheld.append(f"the credential {file} can't be read: {error.message}")
            else:
                # a drop-in that is listed is there, wherever its link leads
                is_missing = error.is_missing and not (error.is_dangling and file != layers.main)
                problem = Problem(file, None, None, error.message, error.hint)
                problem = problem._replace(is_missing=is_missing, is_silent=error.is_silent)
                files.problems.append(problem)
        except ManifestError as error:
            files.problems.extend(error.problems)
    if not any(files):
        files.problems.append(_missing())
    return files


def _empty(file: str) -> Problem:
    """For a main file of zero bytes."""
    message = "it is empty, as a full disk or a crash leaves a file, and counts as missing"
    hint = "write it anew; `version = 1` alone is a manifest without volumes"
    return Problem(file, None, None, message, hint, is_missing=True)


def _missing() -> Problem:
    main, *others = SEARCH_PATH
    message = (
        f"there is no such file, nor {' nor '.join(others)}; no file in a folder mountd.toml.d "
        "beside one of them, and no credential mountd.toml"
    )
    hint = "write it, or name another by --manifest FILE"
    return Problem(main, None, None, message, hint, is_missing=True)


def _distrusted(file: str, distrust: str) -> Problem:
    hint = "check that root owns it and the folders above it, and that nobody else can write them"
    message = f"{distrust}; mountd would do as root what others wrote"
    return Problem(file, None, None, message, hint)


def _volumes(tables: Tables) -> Iterator[Volume]:
    """The enabled volumes, each with the defaults for what it doesn't say itself."""
    for name, own in tables.volumes.items():
        values = {**tables.defaults, **own}
        if "user" in own and "idmap" not in own and isinstance(values.get("idmap"), Idmapping):
            del values["idmap"]  # user and extents displace each other
        if "user" not in own and isinstance(own.get("idmap"), Idmapping):
            values.pop("user", None)
        if values.pop("enabled", True) and "source" in own and "target" in own:
            yield _volume(name, values)


def _volume(name: str, values: dict[str, Any]) -> Volume:
    if owner := values.get("owner"):
        uid, gid = (int(digits.lstrip("0") or "0") for digits in owner.split(":"))
        values["owner"] = Ids(uid, gid)
    if "options" in values:
        values["options"] = tuple(values["options"])
    if "type" not in values:
        values["source"] = normalised_path(values["source"])
    return Volume(name=name, **values)
