"""The short way to the arguments takes nothing that argparse doesn't, and says the same of it."""

from argparse import Action

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mountd.arguments import COMMANDS, plain_arguments
from mountd.usage import Answer, UsageError, judged_arguments, make_parser

_OPTIONS = [word for each in make_parser()._actions for word in each.option_strings]  # noqa: SLF001
_WORDS = st.sampled_from(
    [*COMMANDS, *_OPTIONS, "a", "", "-", "--", "/b", "1.5", "-1", "--wait=2", "-fa", "-nq", "c\0"]
)


def _judged(words: list[str]) -> dict[str, object] | None:
    try:
        return vars(judged_arguments(words))
    except (UsageError, Answer):
        return None


@given(st.lists(_WORDS, max_size=6))
@example(["reconcile", "--wait", "nan"])
@example(["explain", "a", "--user", "", "/b"])
@example(["-n", "-f", "a", "reconcile", "-f", "b", "--detailed-exitcode"])
def test_what_it_takes_argparse_takes_as_the_same(words: list[str]) -> None:
    if plain := plain_arguments(words):
        assert vars(plain) == _judged(words)


@pytest.mark.parametrize("option", make_parser()._actions[1:], ids=lambda it: it.dest)  # noqa: SLF001
def test_each_option_is_taken_the_short_way_by_each_of_its_names(option: Action) -> None:
    for name in option.option_strings:
        value = [] if option.nargs == 0 else ["1"]
        found = [plain_arguments([each, name, *value]) for each in ("reconcile", "check", "status")]
        found += [plain_arguments([each, "a", name, *value]) for each in ("explain", "unmount")]
        found.append(plain_arguments(["unmount", name, *value]))
        assert any(found) == (name not in ("-h", "--help", "--version"))
