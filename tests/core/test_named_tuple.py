"""It does what typing's does."""

import pickle
import typing

import pytest

from mountd.core.named_tuple import NamedTuple


class Ours(NamedTuple):
    """Text."""

    one: int
    two: str = "b"

    @property
    def both(self) -> str:
        return f"{self.one}{self.two}"


class Typings(typing.NamedTuple):
    """Text."""

    one: int
    two: str = "b"

    @property
    def both(self) -> str:
        return f"{self.one}{self.two}"


@pytest.mark.parametrize("kind", [Ours, Typings])
def test_it_is_a_tuple_whose_values_have_names(kind: type[Ours]) -> None:
    value = kind(1)
    assert value == (1, "b") == kind(one=1, two="b") == kind._make([1, "b"])
    assert hash(value) == hash((1, "b"))
    assert (value.one, value.two, value.both, *value) == (1, "b", "1b", 1, "b")
    assert repr(value) == f"{kind.__name__}(one=1, two='b')"
    assert value._replace(two="c") == (1, "c")
    assert type(value._replace(two="c")) is kind
    assert value._asdict() == {"one": 1, "two": "b"}
    assert kind._fields == ("one", "two")
    assert kind.__doc__ == "Text."
    match value:
        case kind(one, two):
            assert (one, two) == (1, "b")


@pytest.mark.parametrize("kind", [Ours, Typings])
def test_it_refuses_what_it_has_not(kind: type[Ours]) -> None:
    for values in ((), (1, "b", 3)):
        with pytest.raises(TypeError):
            kind(*values)
    with pytest.raises(TypeError):
        kind(1, three=3)  # type: ignore[call-arg]
    with pytest.raises((TypeError, ValueError)):
        kind(1)._replace(three=3)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        kind(1).one = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        kind(1).three = 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Ours, Typings])
def test_it_survives_being_pickled(kind: type[Ours]) -> None:
    again = pickle.loads(pickle.dumps(kind(1, "c"), -1))
    assert type(again) is kind
    assert again == (1, "c")
