import os
from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from package import PROJECT

from mountd.manifest.positions import Position, line_and_column, locate
from mountd.manifest.spans import KeyPath

SUITE = os.path.join(PROJECT.parent, "shared/data/toml-test/valid")


def shown(text: str) -> dict[KeyPath, tuple[str, str]]:
    """What the spans of each key path hold."""
    return {
        path: (text[slice(*key)], text[slice(*value)])
        for path, (key, value) in locate(text).items()
    }


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key path below a parsed value, with its own value."""
    if isinstance(value, dict | list):
        for step, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, step), child
            yield from walk(child, (*path, step))


def names(path: KeyPath) -> list[str]:
    return [step for step in path if isinstance(step, str)]


def is_written_out(path: KeyPath, position: Position) -> bool:
    """Whether the value span is a value's text; a table may have a header or just a name there."""
    key, value = position
    return key.end < value.start or (key == value and isinstance(path[-1], int))


def assert_located_as_parsed(text: str) -> None:
    """The scanner finds what the parser finds, and each span parses to what it stands for."""
    found = locate(text)
    parsed = dict(walk(tomli.loads(text)))
    assert found.keys() == parsed.keys()
    for path, value in parsed.items():
        key, span = found[path]
        if isinstance(path[-1], str):
            assert tomli.loads(text[slice(*key)] + " = 0") == {path[-1]: 0}
        if is_written_out(path, found[path]):
            # repr, because it tells 1 from 1.0 and True, and equals itself for nan
            assert repr(tomli.loads("x = " + text[slice(*span)])["x"]) == repr(value)
        elif key == span:
            assert isinstance(value, dict)
        else:
            *_, (header, _) = walk(tomli.loads(text[slice(*span)]))
            assert names(header) == names(path)


def test_a_table_is_its_header_and_its_name_is_the_last_one_there() -> None:
    assert shown("[volumes.cache] # [no.header]\nsource = '/srv'") == {
        ("volumes",): ("volumes", "volumes"),
        ("volumes", "cache"): ("cache", "[volumes.cache]"),
        ("volumes", "cache", "source"): ("source", "'/srv'"),
    }


def test_a_parent_is_where_it_is_first_mentioned() -> None:
    assert locate("[a.b]\n[a.c]")["a",] == ((1, 2), (1, 2))
    assert locate("a.b = 1\na.c = 2")["a",] == ((0, 1), (0, 1))
    assert locate("[a]\n[a.b]")["a",] == ((1, 2), (0, 3))


def test_a_definition_replaces_a_mention_before_it() -> None:
    assert locate("[a.b]\n[a]")["a",] == ((7, 8), (6, 9))


def test_dotted_keys_make_tables_wherever_a_key_may_stand() -> None:
    assert shown("[t]\na . 'b'.c = {d.e = 1, d.f = 2}") == {
        ("t",): ("t", "[t]"),
        ("t", "a"): ("a", "a"),
        ("t", "a", "b"): ("'b'", "'b'"),
        ("t", "a", "b", "c"): ("c", "{d.e = 1, d.f = 2}"),
        ("t", "a", "b", "c", "d"): ("d", "d"),
        ("t", "a", "b", "c", "d", "e"): ("e", "1"),
        ("t", "a", "b", "c", "d", "f"): ("f", "2"),
    }
    assert locate("x = {d.e = 1, d.f = 2}")["x", "d"].key == (5, 6)


def test_an_array_of_tables_is_its_first_header_and_counts_its_elements() -> None:
    text = "[[a]]\nx = 1\n[[a.b]]\n[a.b.c]\n[[ a ]]\nx = 2\n[[a.b]]\n[[a.b]]\n[a.b.c]\nx = 3"
    assert shown(text) == {
        ("a",): ("a", "[[a]]"),
        ("a", 0): ("a", "[[a]]"),
        ("a", 0, "x"): ("x", "1"),
        ("a", 0, "b"): ("b", "[[a.b]]"),
        ("a", 0, "b", 0): ("b", "[[a.b]]"),
        ("a", 0, "b", 0, "c"): ("c", "[a.b.c]"),
        ("a", 1): ("a", "[[ a ]]"),
        ("a", 1, "x"): ("x", "2"),
        ("a", 1, "b"): ("b", "[[a.b]]"),
        ("a", 1, "b", 0): ("b", "[[a.b]]"),
        ("a", 1, "b", 1): ("b", "[[a.b]]"),
        ("a", 1, "b", 1, "c"): ("c", "[a.b.c]"),
        ("a", 1, "b", 1, "c", "x"): ("x", "3"),
    }
    starts = {path: position.value.start for path, position in locate(text).items()}
    assert starts["a",] == starts["a", 0] == text.index("[[a]]")
    assert starts["a", 1, "b"] == starts["a", 1, "b", 0] == text.index("[[a.b]]", 20)
    assert starts["a", 1, "b", 1] == text.rindex("[[a.b]]")


def test_elements_are_their_own_keys() -> None:
    text = "a = [1, [ ], [[2.5]], {b = [true,],}, 1979-05-27 07:32:00Z]"
    assert shown(text) == {
        ("a",): ("a", text[4:]),
        ("a", 0): ("1", "1"),
        ("a", 1): ("[ ]", "[ ]"),
        ("a", 2): ("[[2.5]]", "[[2.5]]"),
        ("a", 2, 0): ("[2.5]", "[2.5]"),
        ("a", 2, 0, 0): ("2.5", "2.5"),
        ("a", 3): ("{b = [true,],}", "{b = [true,],}"),
        ("a", 3, "b"): ("b", "[true,]"),
        ("a", 3, "b", 0): ("true", "true"),
        ("a", 4): ("1979-05-27 07:32:00Z", "1979-05-27 07:32:00Z"),
    }


def test_inline_tables_may_have_lines_and_comments() -> None:  # TOML 1.1, so unlike tomli 2.2
    text = 'a = { # }\n  b = 1, # "c" = 2\n  d = {\n },\n}\ne = 3'
    assert shown(text) == {
        ("a",): ("a", text[4 : text.index("\ne")]),
        ("a", "b"): ("b", "1"),
        ("a", "d"): ("d", "{\n }"),
        ("e",): ("e", "3"),
    }


@pytest.mark.parametrize(
    "value",
    [
        '"""\n[x]\ny = 1 # \\""" "" \\\\"""',
        "'''\n[x]\ny = 1 # \\'' '''",
        '"""two of its own"""""',
        "'''one of its own''''",
        '""""""',
        "''",
        r'"# \" ] \\"',
        "'\"\\'",
    ],
)
def test_a_string_hides_whatever_it_holds(value: str) -> None:
    text = f"a = [{value}, {value}] # ' \"\nb = {value} # '''\nc = 'd' # \"\"\"\n"
    assert_located_as_parsed(text)
    assert shown(text) == {
        ("a",): ("a", f"[{value}, {value}]"),
        ("a", 0): (value, value),
        ("a", 1): (value, value),
        ("b",): ("b", value),
        ("c",): ("c", "'d'"),
    }


def test_quoted_names_are_decoded() -> None:
    text = r"""["a.b"]
'c\d' = 1
"\"#=\\" = 2
"" = 3
"\b\t\n\f\r\u00e9f\U0001F600." = 4"""
    assert_located_as_parsed(text)
    assert list(locate(text)) == [
        ("a.b",),
        ("a.b", "c\\d"),
        ("a.b", '"#=\\'),
        ("a.b", ""),
        ("a.b", "\b\t\n\f\réf😀."),
    ]
    assert list(locate(r'"\e\x41b" = 1')) == [("\x1bAb",)]  # TOML 1.1


def test_lines_may_end_in_carriage_returns_too() -> None:
    text = '[a] # "\r\nb = """\r\nc = 1\\\r\n"""\r\nd = [\r\n  2,\r\n]\r\n'
    assert_located_as_parsed(text)
    assert shown(text)["a", "b"] == ("b", '"""\r\nc = 1\\\r\n"""')
    assert line_and_column(text, locate(text)["a", "d", 0].key.start) == (6, 3)


def test_lines_and_columns_count_characters_from_one() -> None:
    text = "a = 'é😀', \r\n\x0b\u2028b\n"
    assert [line_and_column(text, offset) for offset in range(len(text) + 1)] == [
        *((1, column) for column in range(1, 13)),
        *((2, column) for column in range(1, 5)),
        (3, 1),
    ]
    assert line_and_column("", 0) == (1, 1)


def test_a_text_may_say_nothing() -> None:
    assert locate("") == locate("\r\n \t# a = 1\n# [b]") == {}


def test_deep_nesting_is_no_trouble() -> None:
    found = locate("a = " + "[" * 2000 + "]" * 2000)
    assert len(found) == 2000
    assert found["a", *[0] * 1999].value == (4 + 1999, 4 + 2001)


def suite() -> list[str]:
    folders = os.walk(SUITE)
    paths = [os.path.join(folder, name) for folder, _, names in folders for name in names]
    return sorted(os.path.relpath(path, SUITE) for path in paths if path.endswith(".toml"))


@pytest.mark.skipif(not os.path.isdir(SUITE), reason="the public TOML documents are not here")
def test_the_public_documents_are_found() -> None:
    assert len(suite()) > 200


@pytest.mark.parametrize("name", suite())
def test_public_document(name: str) -> None:
    with open(os.path.join(SUITE, name), "rb") as file:
        text = file.read().decode("utf-8-sig")  # tomli takes no byte order mark
    assert_located_as_parsed(text)


NAMES = st.text(st.sampled_from("ab-1.é😀 \"'\\#=[]{},\t"), max_size=4)
SPACES = st.sampled_from(["", " ", "\t"])
LINES = st.sampled_from(["", " ", "\n", "\r\n", " # it's [a] = {\r\n\n"])
SCALARS = st.sampled_from(
    [
        *("0", "-17", "0xdead_beef", "1e-3", "+inf", "nan", "true", "07:32:00.5"),
        *("1979-05-27", "1979-05-27 07:32:00", "1979-05-27T07:32:00-07:00"),
        *('""', "''", r'"é\"]"', r"'\'", "'#'", '"={"', r'"\u00e9"'),
        *('"""\r\na = "1" \\\r\n ]"""""', "'''\n[b]\n'' ''''", r'"""a\""""'),
    ]
)


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """One way to write a name."""
    quoted = '"' + name.translate({ord(c): f"\\u{ord(c):04X}" for c in '"\\\t'}) + '"'
    spellings = [quoted, quoted.replace("a", "\\U00000061")]
    if "'" not in name:
        spellings.append(f"'{name}'")
    if name.isascii() and name.replace("-", "a").isalnum():
        spellings.append(name)
    return draw(st.sampled_from(spellings))


@st.composite
def keys(draw: st.DrawFn, first: str) -> str:
    """A key, often a dotted one."""
    more = draw(st.lists(NAMES, max_size=2))
    dot = draw(SPACES) + "." + draw(SPACES)
    return dot.join(draw(spelled(name)) for name in [first, *more])


@st.composite
def pairs(draw: st.DrawFn, values: st.SearchStrategy[str]) -> list[str]:
    firsts = draw(st.lists(NAMES, max_size=3, unique=True))
    return [f"{draw(keys(first))}{draw(SPACES)}={draw(SPACES)}{draw(values)}" for first in firsts]


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    element = st.tuples(LINES, values, LINES).map("".join)
    return st.lists(element, max_size=3).map(lambda elements: f"[{','.join(elements)}]")


def inline_tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return pairs(values).map(lambda each: f"{{ {' , '.join(each)} }}")


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Pairs, tables and arrays of tables; their first names differ, so that they never collide."""
    firsts = draw(st.lists(NAMES, max_size=6, unique=True))
    split = draw(st.integers(0, len(firsts)))
    lines = [f"{draw(keys(first))} = {draw(VALUES)}" for first in firsts[:split]]
    for first in firsts[split:]:
        header = draw(keys(first))
        headers = draw(
            st.sampled_from([["[ {}\t]"], ["[[{}]]"] * 2, ["[[{}]]", "[{}.sub.sub]"] * 2])
        )
        for each in headers:
            lines += [each.format(header), *draw(pairs(VALUES))]
    return "".join(line + draw(st.sampled_from(["\n", "\r\n", " # ' [c]\n"])) for line in lines)


@given(documents())
def test_any_document_is_located_as_it_parses(text: str) -> None:
    assert_located_as_parsed(text)
