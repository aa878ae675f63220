"""What is legal in a volume but likely wrong, as a person reads it: what, and what to do.

One function for each, so that all sentences can be read, and mended, in one sitting.
"""

# ruff: noqa: D103 - each function's name is what its sentence says

from collections.abc import Sequence
from typing import Literal

from mountd.core.model import Fault, Ids
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.commands import shell

Key = Literal["source", "target", "user", "accounts", "fallback", "recursive"]


Who = Literal["u", "g", "o"]


class Doubt(NamedTuple):
    """One warning about a volume, and which of its keys it is about."""

    volume: str
    key: Key
    text: str

    def __str__(self) -> str:
        return f"volumes.{self.volume}.{self.key}: {self.text}"


def left_out(volume: str, source: str, points: Sequence[str]) -> Doubt:
    what, them = ("mount", "it") if len(points) == 1 else ("mounts", "them")
    verb = "is" if len(points) == 1 else "are"
    text = f"the {what} below {source} {verb} left out ({_some(points, len(points))})"
    return Doubt(volume, "recursive", f"{text}; set `recursive = true` to include {them}")


def hides(volume: str, target: str, names: Sequence[str], count: int | None) -> Doubt:
    """`count`: of how many these names are the first; None: too many to be counted."""
    text = f"{target} isn't empty, and its files are hidden by the mount ({_some(names, count)})"
    return Doubt(volume, "target", f"{text}; move them away, or choose another target")


def raw_ids(volume: str, why: Fault) -> Doubt:
    hint = f"; {why.hint}" if why.hint else ""
    return Doubt(volume, "fallback", f"ids stay raw, for {why.message}{hint}")


def overflow_user(volume: str, user: str, ids: Ids) -> Doubt:
    text = f"`{user}` is {ids}, and ids that no map covers are shown as 65534"
    return Doubt(volume, "user", f"{text}; name an account of its own")


def no_accounts(volume: str, file: str, uid: int) -> Doubt:
    text = f"there is no {file} to tell the group of uid {uid}, so gids stay as they are"
    return Doubt(volume, "accounts", f'{text}; fix the path, or write `user = "{uid}:GID"`')


def no_account(volume: str, file: str, uid: int) -> Doubt:
    text = f"{file} has no account with uid {uid}, so gids stay as they are"
    return Doubt(volume, "user", f'{text}; give the group too, `user = "{uid}:GID"`')


def out_of_reach(
    volume: str, user: str, target: str, folder: str, found: tuple[Ids, int], who: Who
) -> Doubt:
    """`found`: the folder's owner and mode; `who`: whom of the mode's three the user is."""
    owner, mode = found
    is_open = mode & {"u": 0o100, "g": 0o010, "o": 0o001}[who]
    remedy = shell("chmod", f"{who}+x", folder)
    if is_open:
        remedy = f"see its ACL ({shell('getfacl', folder)})"
    text = f"`{user}` can't reach {target}: {folder} doesn't let this user through"
    text += f" (mode {mode & 0o7777:04o}, of {owner})"
    return Doubt(volume, "target", f"{text}; {remedy}, or choose another target")


def closed_to_us(volume: str, key: Key, path: str, hint: str) -> Doubt:
    return Doubt(volume, key, f"we may not look into {path}; {hint}")


def not_answering(volume: str, source: str, target: str, seconds: float) -> Doubt:
    text = f"no answer within {seconds:g} s from {source} (or {target})"
    hint = "see whether the server behind it is alive"
    return Doubt(volume, "source", f"{text}, so not all was looked at; {hint}")


def not_looked_at(volume: str, said: str) -> Doubt:
    hint = "`mountd check --system` tells what is allowed here"
    return Doubt(volume, "source", f"not all could be looked at: {said}; {hint}")


def _some(names: Sequence[str], count: int | None) -> str:
    """The first three, and how many more there are."""
    shown = ", ".join(names[:3])
    if count is None:
        return f"{shown} and many more"
    return f"{shown} and {count - 3} more" if count > 3 else shown
