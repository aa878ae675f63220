"""The manifest of a process that watches: the last good one, and what is wrong with a later one."""

from collections.abc import Hashable, Iterable, Iterator
from time import monotonic

from mountd.core.targets import folders_above
from mountd.core.words.printable import with_hint
from mountd.manifest.layers import manifest_id, places_of
from mountd.manifest.load import Manifest
from mountd.manifest.problem import ManifestError, Problem
from mountd.reconcile.passes import Settings, layers_of, load
from mountd.reconcile.reading import BeingSavedError, read_manifest, read_saved_manifest
from mountd.report.journal import ERROR, INFO, NOTICE, WARNING, Journal
from mountd.watch.glances import SILENT, content, end_of, itself

_SAVING = 5.0
"""How long to wait for a writer to close the file, in seconds."""


def _above(places: Iterable[str]) -> Iterator[str]:
    """The folders above these, and above where links lead: who may write there decides on trust."""
    ends = dict.fromkeys(end for each in places for end in (each, end_of(each)) if end)
    return map(itself, dict.fromkeys(above for end in ends for above in folders_above(end)))


class Latest:
    """Reads the manifest whenever it is told to; a wrong one changes nothing."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.manifest: Manifest | None = None
        """The one in force; None while none has been there."""
        self.seen: dict[str, Hashable] = {}
        """What was seen at each of its places before they were read."""
        self._settings = settings
        self._journal = journal
        self._problems: list[Problem] = []
        self._is_first = True
        self._saving_since: float | None = None

    def read(self, *, anew: bool) -> bool:
        """Read it, if it has changed or `anew`. False: someone is saving it just now.

        Raises ManifestError for a wrong one at the first time.
        """
        try:
            layers = layers_of(self._settings.manifest)
        except ManifestError as error:
            self._refuse(error)
            places = places_of(self._settings.manifest)
            seen = self.seen or (*places, *_above(places))
            self.seen = {path: content(path) for path in seen}
            return True
        seen = {path: content(path) for path in (*layers.places, *_above(layers.places))}
        if seen == self.seen and not anew and not self._problems:
            return True
        since = self._saving_since or monotonic()
        read = read_saved_manifest if monotonic() - since < _SAVING else read_manifest
        try:
            self._accept(load(self._settings, is_acting=True, layers=layers, read=read))
        except BeingSavedError:
            self._saving_since = since
            return False
        except ManifestError as error:
            if self._is_first and not (error.is_missing or error.is_silent):
                raise
            self._refuse(error)
        self.seen = seen
        self._saving_since = None
        self._is_first = False
        return True

    @property
    def is_outdated(self) -> bool:
        """Whether it has been edited since it was read."""
        sights = ((content(path), each) for path, each in self.seen.items())
        return any(now not in (each, SILENT) for now, each in sights)

    @property
    def trouble(self) -> str | None:
        """A line, where the one in force isn't the one that is there."""
        if not self._problems:
            return None
        if not self.manifest:
            return f"waiting for a manifest: {self._problems[0].file}: {self._problems[0].message}"
        return f"{str(self._problems[0]).splitlines()[0]} (the last good manifest is in force)"

    def _accept(self, manifest: Manifest) -> None:
        if self._problems and self.manifest:
            name = manifest_id(self._settings.manifest)
            self._journal.tell(f"the manifest {name} is right again", "manifest-mended", INFO)
        self._problems = []
        self.manifest = manifest

    def _refuse(self, error: ManifestError) -> None:
        """Tell what is wrong, once."""
        if error.problems == self._problems:
            return
        self._problems = error.problems
        if not (error.is_missing or error.is_silent):
            for problem in error.problems:
                self._journal.tell(problem.lines, "manifest-refused", ERROR)
            return
        problem = error.problems[0]
        said = f"{problem.file}: {problem.message}"
        if self.manifest:
            message = f"{said}: the last good manifest stays in force, and nothing is unmounted"
            hint = "to take its volumes off, put a file with `version = 1` alone in its place"
            hint = problem.hint if problem.is_silent and problem.hint else hint
            self._journal.tell(with_hint(message, hint), "manifest-missing", WARNING)
        else:
            message = f"{said}; waiting for it"
            self._journal.tell(message, "manifest-missing", NOTICE)
