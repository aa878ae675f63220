"""How the calls of the mount API are made: by number, through syscall(2), with one error check."""

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_long
from errno import ENOSYS, EPERM
from functools import partial
from typing import Any

AT_FDCWD = -100


def _check(result: int, function: Any, arguments: tuple[Any, ...]) -> int:
    """As ctypes' errcheck: an answer below zero becomes an OSError, which says what failed.

    Its `call` and `made_on` say so apart; `strerror` has both in words.
    """
    if result >= 0:
        return result
    error = ctypes.get_errno()
    made_on = " onto ".join(_paths(function.argtypes, arguments))
    said = f"{function.call}: {os.strerror(error)}"
    raised = OSError(error, f"{said} ({made_on})" if made_on else said)  # of the kind of its errno
    vars(raised).update(call=function.call, made_on=made_on)
    raise raised


def _paths(argtypes: tuple[Any, ...], arguments: tuple[Any, ...]) -> list[str]:
    """The paths among a call's arguments, each with what the descriptor before it leads to."""
    found = []
    for index, (kind, argument) in enumerate(zip(argtypes, arguments, strict=True)):
        if kind is not c_char_p:
            continue
        path, folder = os.fsdecode(argument), arguments[index - 1]
        if not path.startswith("/") and folder != AT_FDCWD:
            path = f"/proc/self/fd/{folder}/{path}"
        if path.startswith("/proc/self/fd/"):
            link, _, rest = path.removeprefix("/proc/self/fd/").partition("/")
            try:
                path = f"{os.readlink(f'/proc/self/fd/{link}')}/{rest}".rstrip("/")
            except OSError:
                path = rest
        found.append(path)
    return [path for path in found if path]  # a detached mount has no path


def bind(call: str, number: int, *argtypes: Any) -> Callable[..., int]:
    """A call by its number, which raises OSError with `strerror` naming it and its paths."""
    # Indexing a library gives a new function object each time: this one carries this call's types.
    function: Any = ctypes.CDLL(None, use_errno=True)["syscall"]
    function.argtypes = (c_long, *argtypes)
    function.restype = c_long
    function.errcheck = _check
    function.call = call
    return partial(function, number)


def is_there(call: Callable[..., int], *arguments: Any) -> bool:
    """Whether a call is there, and let through by seccomp; `arguments` are those it refuses."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno not in (ENOSYS, EPERM)
    return True
