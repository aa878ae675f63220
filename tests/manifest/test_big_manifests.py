"""A manifest may have 1 MiB: what is told of it, and the work of telling, are as long as the text.

Time is no measure here, for a test may have to share its machine: a fault of this kind is one that
takes minutes. Where only counting tells, words are counted.
"""

from collections.abc import Callable

import pytest

from mountd.manifest.layers import Layers
from mountd.manifest.load import MOST_BYTES, Reading, load_manifest
from mountd.manifest.positions import locate, statement_start
from mountd.manifest.problem import ManifestError

_A = '[volumes.a]\nsource = "/s"\ntarget = "/t"\n'


def _problems(*texts: str) -> list[str]:
    """What is told of the drop-ins of a manifest; nothing where it is right."""
    files = {f"/m.toml.d/{number:05}.toml": text.encode() for number, text in enumerate(texts)}
    assert all(len(each) <= MOST_BYTES for each in files.values())
    layers = Layers("/m.toml", tuple(files), (), (), (), ())
    try:
        load_manifest(layers, lambda file: Reading(files[file], ()), {}, is_acting=False)
    except ManifestError as error:
        return [str(each) for each in error.problems]
    return []


def _repeated(line: Callable[[int], str], end: str, times: int) -> str:
    return end.join(map(line, range(times)))


_MANY: dict[str, Callable[[int], str]] = {
    "unknown keys": lambda n: _A + _repeated(lambda i: f"k{i} = 1", "\n", n),
    "misspelt keys": lambda n: _repeated(lambda i: f"[volumes.v{i}]\nsuorce = 1", "\n", n),
    "same target": lambda n: _repeated(
        lambda i: f'[volumes.v{i}]\nsource = "/s"\ntarget = "/t"', "\n", n
    ),
    "one line of extents": lambda n: _A + "idmap.uids = [" + "{stored=1,seen=1,count=1}," * n + "]",
    "one line of tables": lambda n: (
        "volumes = {" + _repeated(lambda i: f'v{i} = {{surce = "/s"}}', ",", n) + "}"
    ),
    "tables one by one": lambda n: "[[volumes.a.idmap.uids]]\n" * n,
    "circles": lambda n: _repeated(
        lambda i: f'[volumes.v{i}]\nsource = "/t{i ^ 1}"\ntarget = "/t{i}"', "\n", n
    ),
}


@pytest.mark.parametrize("kind", _MANY)
def test_every_error_is_told_in_words_that_grow_as_the_text_does(kind: str) -> None:
    few, many = (_problems(_MANY[kind](times)) for times in (200, 4000))
    assert few
    assert 15 < len(many) / len(few) < 25
    assert 15 < sum(map(len, many)) / sum(map(len, few)) < 30  # numbers have more digits
    assert max(len(line) for each in many for line in each.split("\n")) < 400


_LONG = {
    "a string": (_A + 'user = "' + "x" * 900_000 + '":"', "not TOML"),
    "a name": ("a" * 900_000 + " = 1", "unknown key `aaa"),
    "a volume's name": ('[volumes."' + "a" * 900_000 + '"]\nk = 1', "is no name for a volume"),
    "a word": (_A + "user = " + "x" * 900_000, "is no value"),
    "a target": (_A.replace("/t", "/t" * 400_000), "is 800000 bytes long, and the kernel takes"),
    "a source": (_A.replace("/s", "/s" * 400_000), "is 800000 bytes long, and the kernel takes"),
    "a user": (_A + 'user = "' + "x" * 900_000 + ':"', "must be `name`"),
    "a string that isn't closed": (_A + 'user = """' + "x\n" * 400_000, "isn't closed"),
    "an array that isn't closed": (_A + "options = [\n" + '"x",\n' * 150_000, "isn't closed"),
    "a key given twice": (
        _repeated(lambda i: f"k{i} = 1", "\n", 50_000) + "\nk7 = 1",
        "`k7` is given twice",
    ),
    "brackets": (_A + "idmap = " + "[" * 900_000, "what is nested so deeply"),
    "parts of a key": ("a." * 400_000 + "a = 1", "a key of so many parts"),
    "quoted parts": ('"a".' * 200_000 + "a = 1", "a key of so many parts"),
    "parts of a key in a table": ("x = {" + "a." * 400_000 + "a = 1}", "a key of so many parts"),
    "digits": (_A + "user = " + "9" * 900_000, "a number of so many digits"),
}


@pytest.mark.parametrize("kind", _LONG)
def test_of_what_is_long_as_little_is_shown_as_people_read(kind: str) -> None:
    text, said = _LONG[kind]
    found = _problems(text)
    assert any(said in each for each in found)
    assert max(len(line) for each in found for line in each.split("\n")) < 500


def test_a_long_name_is_not_repeated_for_all_that_is_wrong_in_its_table() -> None:
    # each error of pydantic's has the whole name: 20 GB
    text = '[volumes."' + "a" * 500_000 + '"]\n' + _repeated(lambda i: f"k{i} = 1", "\n", 40_000)
    found = _problems(text)
    assert len(found) == 40_000 + 3  # its name, source and target
    assert ":1:1: error: `volumes.aaa" in found[0]
    assert f":{40_001}:1: error: unknown key `volumes.aaa" in found[-1]


def test_a_thousand_drop_ins_are_no_trouble() -> None:
    texts = [f'[volumes.v{number}]\nsource = "/s"\nk = 1' for number in range(1000)]
    found = _problems(*texts)
    assert len(found) == 2000
    assert "/m.toml.d/00999.toml:3:1: error: unknown key `volumes.v999.k`" in found[-1]
    assert sum(map(len, found)) < 1_000_000


@pytest.mark.parametrize("digits", ["0x" + "f" * 5000, "0o" + "7" * 6000, "0b" + "1" * 20_000])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("user = {}", "must have ids from 0 to 4294967294, not a number of so many digits"),
        ("idmap = {{uids = [{{stored = {}, seen = 0, count = 1}}]}}", "must be from 0 to 4294967"),
        ("idmap = {{uids = [{{stored = 0, seen = 0, count = {}}}]}}", "must be from 1 to 4294967"),
        ("owner = {}", "must be a string, not an integer"),
        ("read_only = {}", "must be true or false, not an integer"),
        ("idmap = {}", "must be `auto`, `always`, `never` or a table of extents"),
    ],
)
def test_a_number_of_thousands_of_digits_is_told_in_our_words(
    digits: str, line: str, said: str
) -> None:
    (found,) = _problems(_A + line.format(digits))
    head, *_ = found.split("\n")
    assert head.startswith("/m.toml.d/00000.toml:4:")
    assert said in head
    assert "^" in found
    assert max(map(len, found.split("\n"))) < 300


def test_the_version_may_be_such_a_number_and_is_wrong() -> None:
    (found,) = _problems("version = 0x" + "f" * 5000)
    assert "must be 1, the one version there is" in found


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('a = 1\nb = """\nx\n"""\nc = [', "c"),
        ('a = 1\nb = """\nx\n', "b"),
        ("a = 1\nb = [\n'x', # ]\n\"]\",\n", "b"),
        ('a = 1\n"b = 1\n', '"b'),
        ("[a]\nb = {c = [\n", "b"),
        ("[a]\n# b = [\nd = '''\n", "d"),
        ("d = '''\n", "d"),
    ],
)
def test_a_statement_begins_where_what_is_before_it_is_over(text: str, start: str) -> None:
    assert statement_start(text, len(text)) == text.index(start)


def test_names_of_a_thousand_parts_are_found_by_each_part() -> None:
    header = ".".join(["a"] * 900)
    found = locate(f"[{header}]\n" + _repeated(lambda i: f"{header}.b{i} = 1", "\n", 100))
    path = ("a",) * 1800
    assert found[(*path, "b99")].value.end == found[(*path, "b99")].value.start + 1
