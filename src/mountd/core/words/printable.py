"""Text from elsewhere (a mount point, a process's name) as a terminal may be shown it.

It is escaped where it leaves: by the journal, the page, the document and the status line alone.
"""

from collections.abc import Iterable


def printable(text: str) -> str:
    """The text, with every character that a terminal would obey (a newline too) as an escape.

    Of what is longer than a page, as a path can be that a user has made, the middle is left out.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == " " else each.encode("unicode_escape").decode()
        for each in text
    )


_LONGEST = 4000


def printable_lines(text: str | Iterable[str]) -> str:
    """One line, or several: each is escaped by itself."""
    return printable(text) if isinstance(text, str) else "\n".join(map(printable, text))


def with_hint(message: str, hint: str | None) -> list[str]:
    """The lines that say what is wrong and, where that is known, what to do."""
    return [message, f"hint: {hint}"] if hint else [message]
