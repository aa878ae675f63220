"""NamedTuple as typing has it, made in a fifth of the time.

Typing looks at each annotation and has a function compiled for each class, of which a start makes
seventy: that takes as long as the bare interpreter. To type checkers it is typing's own.
"""

import sys
from typing import TYPE_CHECKING, Any

__all__ = ["NamedTuple"]

if TYPE_CHECKING or sys.version_info >= (3, 14):  # which has annotations elsewhere
    from typing import NamedTuple
else:
    from collections import _tuplegetter
    from types import CodeType, FunctionType

    class _Maker(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            code = _code(len(fields)).replace(
                co_name="__new__", co_qualname=f"{name}.__new__", co_varnames=("_cls", *fields)
            )
            defaults = tuple(namespace[each] for each in fields if each in namespace)
            made = {
                **_COMMON,
                **namespace,
                **{each: _tuplegetter(number, None) for number, each in enumerate(fields)},
                "__new__": FunctionType(code, _GLOBALS, "__new__", defaults),
                "__match_args__": fields,
                "_fields": fields,
            }
            return type(name, (tuple,), made)

    class NamedTuple(metaclass=_Maker):
        """A tuple whose values have names."""

    def _code(count: int) -> CodeType:
        """What makes a tuple of this many values; it is the same whatever they are called."""
        if count not in _codes:
            names = "".join(f"_{each}, " for each in range(count))
            _codes[count] = eval(f"lambda _cls, {names}: _new(_cls, ({names}))", _GLOBALS).__code__  # noqa: S307
        return _codes[count]

    _codes: dict[int, CodeType] = {}
    _GLOBALS = {"_new": tuple.__new__, "__builtins__": {}}

    def _repr(self: Any) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({values})"

    def _asdict(self: Any) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self: Any, /, **values: Any) -> Any:
        made = self._make(map(values.pop, self._fields, self))
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")
        return made

    _COMMON = {
        "__slots__": (),
        "__repr__": _repr,
        "__getnewargs__": lambda self: tuple(self),  # noqa: PLW0108 - a class would not be bound
        "_asdict": _asdict,
        "_make": classmethod(tuple.__new__),
        "_replace": _replace,
    }
