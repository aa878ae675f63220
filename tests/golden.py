"""The files below golden/: what people read, kept as they read it."""

from collections.abc import Callable
from pathlib import Path

GOLDEN = Path(__file__).with_name("golden")
Golden = Callable[[str, str], None]
"""Compares a text with what the file of a name says."""
