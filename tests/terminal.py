"""A terminal, of which a test has the other side."""

import os


def read_terminal(terminal: int) -> bytes:
    """A piece of what is written there; nothing in the end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: the other side is closed
        return b""
