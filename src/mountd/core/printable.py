"""Text from elsewhere (a mount point, a process's name) as a terminal may be shown it."""


def printable(text: str) -> str:
    """The text, with every character that a terminal would obey (a newline too) as an escape."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == " " else each.encode("unicode_escape").decode()
        for each in text
    )
