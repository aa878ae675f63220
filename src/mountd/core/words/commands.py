"""Commands as hints have them: between backticks, to be pasted into a shell as they stand."""

STATE_DIR = "/run/mountd"
"""Where the record and the locks are, unless --state-dir names another place."""


def shell(*words: str) -> str:
    """A command of these words, each quoted where a shell would take it for something else."""
    return f"`{' '.join(map(_quoted, words))}`"


def mountd(command: str, *words: str, manifest: str | None = None) -> str:
    """A command of our own, for the manifest and the state directory that this run has.

    `manifest`: that of another, as the record names it.
    """
    options = {**_OPTIONS}
    if manifest and manifest != _OWN_MANIFEST[0]:
        options["--manifest"] = manifest
    return shell("mountd", command, *words, *(each for pair in options.items() for each in pair))


def remember(manifest: str, given: str | None, state_dir: str) -> None:
    """Have our own commands carry the options that this run was given; it reads this `manifest`."""
    _OWN_MANIFEST[:] = [manifest]
    _OPTIONS.clear()
    if given:
        _OPTIONS["--manifest"] = given
    if state_dir != STATE_DIR:
        _OPTIONS["--state-dir"] = state_dir


_OWN_MANIFEST = [""]
_OPTIONS: dict[str, str] = {}
"""Set once, at the start of a run: a hint is made in many places, and none of them knows these."""


def _quoted(word: str) -> str:
    if word.isprintable() and "`" not in word:
        from shlex import quote  # noqa: PLC0415 - it loads re, for the sake of a hint

        return quote(word)
    # what a terminal is shown as an escape, or ends the backticks, no quotes would bring back
    data = word.encode(errors="surrogateescape")
    octal = (chr(each) if chr(each) in _PLAIN else f"\\{each:03o}" for each in data)
    return f"\"$(printf '{''.join(octal)}')\""


_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 /._-+=:,@")
