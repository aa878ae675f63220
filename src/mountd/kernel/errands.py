"""Single calls on what others serve, each made by a child where a server may keep it waiting."""

from _thread import _local as local  # without `threading`, which a start would wait for
from collections.abc import Callable, Hashable
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mountd.kernel.patience import GLANCE, LAST, PATIENCE, SHORT, Patience, heard, no_answer
from mountd.kernel.served import ServedError, errand

if TYPE_CHECKING:  # it is for those alone who use what is served
    from mountd.kernel.road import Child

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Errands:
    """Single calls on what is served, of the actions of one round: each in a child of its own."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._silent: set[int] = set()
        """Servers that left a call without an answer."""

    def of(self, key: Hashable) -> errand:
        """Let an action make such calls until the end of the `with`; `key` is what it is known by.

        Those that don't answer raise TimeoutError, all of them after `PATIENCE` and little more.
        """
        return errand(_Errand(self._patience, self._silent, key))


class _Errand:
    def __init__(self, patience: Patience, silent: set[int], key: Hashable) -> None:
        self._patience = patience
        self._silent = silent
        self._key = key
        self._deadline: float | None = None

    def run(self, call: Callable[[], _T], needed: object, server: int) -> _T:
        """What the call answers. Raises what it raises, TimeoutError, and NoChildError."""
        from mountd.kernel.road import Child  # noqa: PLC0415 - see above

        child = Child(lambda _: call(), needed)
        child.ask(None)
        now = monotonic()
        self._deadline = self._deadline or now + PATIENCE
        ends = now + SHORT if server in self._silent else max(self._deadline, now + SHORT)
        while (now := monotonic()) < ends:
            if not child.wait(min(GLANCE, ends - now)):
                if self._patience.is_stopped:
                    ends = min(ends, now + SHORT)
                continue
            if answer := heard(child):
                child.dismiss()
                if child.wait(LAST):  # as long as it lives, what it has open is busy
                    child.bury()
                else:
                    self._patience.leave(child, None)
                if answer.error:
                    raise answer.error
                found: _T = answer.found
                return found
        self._silent.add(server)
        child.kill()  # or it would go on in a pass that has long given it up
        if child.wait(LAST):
            child.bury()
        else:
            self._patience.leave(child, self._key)
        raise no_answer()


def ask(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What a function answers: at once, or where it meets what is served, by a child.

    It is one that can be pickled, with its arguments and what it answers or raises. Such a child
    stays for the questions to come. Raises TimeoutError, at once where the server left another
    question of this thread without an answer and still does, and NoChildError.
    """
    try:
        return function(*args, **kwargs)
    except ServedError as error:
        server = error.server
    found: _T = _questions().ask((function, args, kwargs), server)
    return found


class _Questions:
    """Those of one thread."""

    def __init__(self) -> None:
        self._patience = Patience()
        self._child: Child | None = None

    def ask(self, question: object, server: int) -> Any:
        from mountd.kernel.road import Child  # noqa: PLC0415 - see above

        self._patience.collect()
        if server in self._patience.hung:
            raise no_answer()
        child = self._child or Child(_answered)
        self._child = None
        child.ask(question)
        ends = monotonic() + PATIENCE
        while child.wait(ends - monotonic()):
            if answer := heard(child):
                self._child = child
                if answer.error:
                    raise answer.error
                return answer.found
        self._patience.leave(child, server)
        raise no_answer()


def _answered(question: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
    function, args, kwargs = question
    return function(*args, **kwargs)


_of_thread = local()


def _questions() -> _Questions:
    if not hasattr(_of_thread, "questions"):
        _of_thread.questions = _Questions()
    found: _Questions = _of_thread.questions
    return found
