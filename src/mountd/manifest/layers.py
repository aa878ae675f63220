"""The files that a manifest consists of: those of the search path, or those of one file."""

import os

from mountd.core.named_tuple import NamedTuple
from mountd.core.words.faults import PASSING
from mountd.manifest.problem import Problem

SEARCH_PATH = ("/etc/mountd.toml", "/run/mountd.toml", "/usr/lib/mountd.toml")
_CREDENTIALS = ("/run/credentials/mountd.service", "/run/credentials/@system")


class Layers(NamedTuple):
    """The files in the order in which they are merged: the main one, drop-ins, credentials.

    `places` are all files and folders that it is looked for in, which no target may cover.
    `problems` and `warnings` tell of folders of drop-ins and of credentials that can't be listed.
    `main`: the file that is the main one; None where there is none, nor has to be.
    """

    id: str
    files: tuple[str, ...]
    credentials: tuple[str, ...]
    places: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    main: str | None = None


def find_layers(manifest: str | None) -> Layers:
    """The files that there are. `manifest` is one file's absolute path; None: the search path.

    A drop-in hides those of its name in the places that come later in the search path. Raises
    OSError as in `PASSING`.
    """
    is_search_path = _is_search_path(manifest)
    mains = (manifest,) if manifest and not is_search_path else SEARCH_PATH
    main = _first(mains)
    drop_ins: dict[str, str] = {}
    problems = []
    for folder in (f"{each}.d" for each in reversed(mains)):
        try:
            drop_ins |= {name: f"{folder}/{name}" for name in _names(folder, "")}
        except OSError as error:
            if error.errno in PASSING:
                raise
            message = f"the drop-ins in it can't be listed: {error.strerror}"
            problems.append(Problem(folder, None, None, message, "fix that, or remove it"))
    files = [drop_ins[name] for name in sorted(drop_ins, key=os.fsencode)]
    if not (main or is_search_path or files or problems):
        main = mains[0]  # a file that is named and missing is told by reading it
    files = [main, *files] if main else files
    credentials, warnings = _credentials() if is_search_path else ([], [])
    folders = [*(f"{each}.d" for each in mains), *map(os.path.dirname, credentials[:1])]
    places = dict.fromkeys((*mains, *folders, *files, *credentials))
    return Layers(
        manifest_id(manifest),
        tuple(files),
        tuple(credentials),
        tuple(places),
        tuple(problems),
        tuple(warnings),
        main,
    )


def places_of(manifest: str | None) -> tuple[str, ...]:
    """Where `find_layers` looks first of all: files and folders that need not exist."""
    mains = (manifest,) if manifest and manifest not in SEARCH_PATH else SEARCH_PATH
    return (*mains, *(f"{each}.d" for each in mains), *_credential_folders())


def manifest_id(manifest: str | None) -> str:
    """The manifest's name in the record, which it has also while it is missing or wrong."""
    return SEARCH_PATH[0] if manifest is None or _is_search_path(manifest) else manifest


def _is_search_path(manifest: str | None) -> bool:
    """Whether this is the search path, or the file in it that counts.

    Its first file is that also while it is missing, for the search path has that file's name.
    """
    return manifest in (None, SEARCH_PATH[0], _first(SEARCH_PATH))


def _credentials() -> tuple[list[str], list[str]]:
    """The credentials that are ours, and a sentence where it can't be told."""
    if not (folder := _first(_credential_folders())):
        return [], []
    try:
        names = _names(folder, "mountd.")
    except OSError as error:
        return [], [f"the credentials in {folder} can't be listed: {error.strerror}"]
    names.sort(key=lambda name: (name != "mountd.toml", os.fsencode(name)))
    return [f"{folder}/{name}" for name in names], []


def _credential_folders() -> tuple[str, ...]:
    given = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return (os.path.normpath(given), *_CREDENTIALS) if given.startswith("/") else _CREDENTIALS


def _first(paths: tuple[str, ...]) -> str | None:
    """The first path that exists. One that can't be looked at counts, and so does any link."""
    for path in paths:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass
        return path
    return None


def _names(folder: str, prefix: str) -> list[str]:
    """The TOML files of a folder, which need not exist; editors' hidden files are none.

    Raises OSError where it is there and can't be listed.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        if os.path.lexists(folder):
            raise
        return []
    wanted = (each for each in names if each.startswith(prefix) and each.endswith(".toml"))
    return [each for each in wanted if not each.startswith(".")]
