"""Text from elsewhere (a mount point, a process's name) as a terminal may be shown it."""


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
