from errno import EINVAL
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mountd.core.idmapping import (
    ID_COUNT,
    IDENTITY,
    Extent,
    Extents,
    Idmapping,
    compose,
    identity,
    in_words,
    inverse,
    is_whole,
    kernel_text,
    normalised,
    parsed_text,
    refusals,
    seen_as,
    swap,
    unknown,
)
from mountd.kernel.userns import make_user_namespace

HIGHEST = 4294967294
ids = st.integers(0, HIGHEST) | st.sampled_from((0, 1, 65534, 65535, HIGHEST - 1, HIGHEST))
pairs = (
    st.tuples(ids, ids)
    | st.integers(0, HIGHEST - 1).map(lambda low: (low, low + 1))
    | ids.map(lambda same: (same, same))
)


@st.composite
def maps(draw: st.DrawFn, most: int = 12) -> Extents:
    """Extents that the kernel takes, in any order, with and without gaps on either side."""
    size = st.integers(1, 3) | st.integers(1, 100_000_000)
    counts = draw(st.lists(size, min_size=1, max_size=most))
    sides = []
    for order in (range(len(counts)), draw(st.permutations(range(len(counts))))):
        first, starts = 0, {}
        for index in order:
            first += draw(st.just(0) | st.integers(0, 100_000_000))
            starts[index] = first
            first += counts[index]
        sides.append(starts)
    stored, seen = sides
    extents = [Extent(stored[index], seen[index], count) for index, count in enumerate(counts)]
    return tuple(draw(st.permutations(extents)))


@st.composite
def split_maps(draw: st.DrawFn) -> tuple[Extents, Extents]:
    """Extents, and others that mean the same: cut in pieces and shuffled."""
    extents = draw(maps())
    pieces: list[Extent] = []
    for stored, seen, count in extents:
        cuts = draw(st.lists(st.integers(1, count - 1), unique=True)) if count > 1 else []
        ends = [0, *sorted(cuts), count]
        for here, there in pairwise(ends):
            pieces.append(Extent(stored + here, seen + here, there - here))
    return extents, tuple(draw(st.permutations(pieces)))


def edges(extents: Extents) -> set[int]:
    """The stored ids at which something may change."""
    around = {
        each
        for stored, _, count in extents
        for each in (stored - 1, stored, stored + count - 1, stored + count)
    }
    return {each for each in around if 0 <= each <= HIGHEST}


def covers_each_id_once(runs: list[tuple[int, int]]) -> bool:
    """Whether the runs (first, count) are all the ids there are, none twice."""
    end = 0
    for first, count in sorted(runs):
        if first != end or count < 1:
            return False
        end += count
    return end == ID_COUNT


@given(pairs)
@example((0, HIGHEST))
@example((0, 1))
@example((HIGHEST - 1, HIGHEST))
@example((501, 501))
def test_a_swap_is_a_bijection_over_all_ids_in_at_most_five_extents(pair: tuple[int, int]) -> None:
    extents = swap(*pair)
    assert 1 <= len(extents) <= 5
    assert covers_each_id_once([(stored, count) for stored, _, count in extents])
    assert covers_each_id_once([(seen, count) for _, seen, count in extents])
    assert is_whole(extents)
    assert extents == normalised(extents)
    assert refusals(extents) == []


@given(pairs, ids)
def test_a_swap_exchanges_its_two_ids_and_no_other(pair: tuple[int, int], any_id: int) -> None:
    one, other = pair
    extents = swap(one, other)
    for each in {any_id, one, other, *edges(extents)}:
        assert seen_as(extents, each) == {one: other, other: one}.get(each, each)


@given(pairs)
def test_a_swap_is_its_own_inverse_whichever_id_comes_first(pair: tuple[int, int]) -> None:
    one, other = pair
    assert inverse(swap(one, other)) == swap(one, other) == swap(other, one)


@given(ids)
def test_the_swap_of_an_id_with_itself_is_the_identity(same: int) -> None:
    assert swap(same, same) == IDENTITY == (Extent(0, 0, 4294967295),)


@given(maps(), ids)
def test_the_inverse_leads_back(extents: Extents, any_id: int) -> None:
    back = inverse(extents)
    assert inverse(back) == normalised(extents)
    for stored in edges(extents) | {any_id}:
        seen = seen_as(extents, stored)
        assert seen is None or seen_as(back, seen) == stored


@given(split_maps(), ids)
def test_maps_that_mean_the_same_are_equal_once_normalised(
    two: tuple[Extents, Extents], any_id: int
) -> None:
    extents, pieces = two
    assert normalised(extents) == normalised(pieces) == normalised(normalised(pieces))
    for stored in edges(pieces) | {any_id}:
        assert seen_as(normalised(pieces), stored) == seen_as(extents, stored)


@given(maps(), ids)
def test_an_id_is_seen_as_its_own_extent_says_and_as_none_outside(
    extents: Extents, any_id: int
) -> None:
    for id_ in edges(extents) | {any_id}:
        holder = [each for each in extents if each.stored <= id_ < each.stored + each.count]
        wanted = [id_ + seen - stored for stored, seen, _ in holder]
        assert seen_as(extents, id_) == (wanted[0] if wanted else None)


def chained(first: Extents, then: Extents, stored: int) -> int | None:
    """As what an id is seen through both, one after the other."""
    between = seen_as(first, stored)
    return None if between is None else seen_as(then, between)


@given(maps(), maps(), ids)
def test_a_composed_map_shows_what_one_map_shows_through_the_other(
    first: Extents, then: Extents, any_id: int
) -> None:
    composed = compose(first, then)
    led_back = {seen_as(inverse(first), each) for each in edges(then)} - {None}
    for stored in edges(first) | led_back | {any_id}:
        assert stored is not None
        assert seen_as(composed, stored) == chained(first, then, stored)
    assert composed == normalised(composed)


@given(maps(), maps(), maps())
def test_composing_has_an_identity_and_inverses_and_knows_no_brackets(
    one: Extents, two: Extents, three: Extents
) -> None:
    assert compose(compose(one, two), three) == compose(one, compose(two, three))
    assert compose(one, IDENTITY) == compose(IDENTITY, one) == normalised(one)
    assert inverse(compose(one, two)) == compose(inverse(two), inverse(one))
    assert compose(one, inverse(one)) == identity(one)


@given(maps(), st.data())
def test_a_swap_where_not_all_ids_are_known_leaves_none_of_those_out_and_takes_no_other(
    pieces: Extents, data: st.DataObject
) -> None:
    known = identity(pieces)
    inside = st.sampled_from(sorted(each for each in edges(known) if seen_as(known, each) == each))
    one, other = data.draw(inside), data.draw(inside)
    swapped = swap(one, other, known)
    assert swapped == inverse(swapped) == normalised(swapped) == swap(other, one, known)
    assert compose(swapped, swapped) == known == identity(swapped)
    assert is_whole(swapped, known)
    assert not unknown(swapped, known)
    for each in edges(known) | edges(swapped):
        assert seen_as(swapped, each) == seen_as(known, {one: other, other: one}.get(each, each))


@given(maps(), ids)
def test_an_id_that_is_not_known_is_swapped_with_none(pieces: Extents, any_id: int) -> None:
    known = identity(pieces)
    for each in edges(known) | {any_id}:
        if seen_as(known, each) is None:
            for pair in ((each, known[0].stored), (known[0].stored, each), (each, each)):
                with pytest.raises(ValueError, match=f"{each}"):
                    swap(*pair, known)


@given(maps(), maps(), ids)
def test_what_is_seen_as_an_id_that_is_not_known_is_told_and_nothing_else(
    extents: Extents, pieces: Extents, any_id: int
) -> None:
    known = identity(pieces)
    told = unknown(extents, known)
    for stored in edges(extents) | edges(told) | {any_id}:
        seen = seen_as(extents, stored)
        is_unknown = seen is not None and seen_as(known, seen) is None
        assert seen_as(told, stored) == (seen if is_unknown else None)


@given(maps(), maps())
def test_a_map_is_whole_where_the_ids_it_leaves_out_are_not_known(
    extents: Extents, pieces: Extents
) -> None:
    known = identity(pieces)
    left_out = [each for each in edges(known) | edges(extents) if seen_as(extents, each) is None]
    known_ones = [each for each in left_out if seen_as(known, each) == each]
    assert is_whole(extents, known) == (not known_ones)


@given(maps(), maps())
def test_split_for_the_kernel_a_map_means_the_same_and_each_extent_fits_one_of_the_namespace(
    extents: Extents, pieces: Extents
) -> None:
    own = tuple(sorted(Extent(first, first, count) for first, _, count in pieces))
    lines = tuple(kernel_text(extents, own).splitlines())
    assert parsed_text(lines) == normalised(extents)
    for _, seen, count in (map(int, line.split()) for line in lines):
        holders = {
            index
            for index, (first, _, run) in enumerate(own)
            if first < seen + count and seen < first + run
        }
        fits = [
            own[each].stored <= seen <= own[each].stored + own[each].count - count
            for each in holders
        ]
        assert fits in ([], [True])


@pytest.mark.parametrize("hole", [0, 501, HIGHEST])
def test_a_map_that_leaves_one_id_out_is_not_whole(hole: int) -> None:
    assert is_whole(IDENTITY)
    pieces = (Extent(0, 0, hole), Extent(hole + 1, hole + 1, HIGHEST - hole))
    assert not is_whole(tuple(piece for piece in pieces if piece.count))


@given(maps())
def test_what_the_kernel_is_written_reads_back_as_the_same_map(extents: Extents) -> None:
    assert parsed_text(tuple(kernel_text(extents).splitlines())) == normalised(extents)


def test_the_kernel_reads_stored_then_seen_then_count() -> None:
    assert kernel_text((Extent(501, 1000, 1), Extent(7, 8, 9))) == b"501 1000 1\n7 8 9\n"
    assert parsed_text((b"       501       1000          1",)) == (Extent(501, 1000, 1),)


def of_bytes(size: int) -> Extents:
    """Extents that are a few more than 4,080 bytes long as the kernel reads them."""
    long = [Extent(4_000_000_000 + 2 * each, 4_000_000_000 + 2 * each, 1) for each in range(170)]
    last = {4095: Extent(10_000, 100_000, 1), 4096: Extent(100_000, 100_000, 1)}[size]
    assert len(kernel_text((*long, last))) == size
    return (*long, last)


def scattered(count: int) -> Extents:
    return tuple(Extent(2 * each, 2 * each, 1) for each in range(count))


TAKEN: dict[str, Extents] = {
    "identity": IDENTITY,
    "the highest id": (Extent(HIGHEST, 0, 1), Extent(0, HIGHEST, 1)),
    "neighbours": (Extent(0, 5, 5), Extent(5, 0, 5)),
    "340 extents": scattered(340),
    "4,095 bytes": of_bytes(4095),
}
REFUSED: dict[str, tuple[Extents, list[tuple[tuple[int, ...], str]]]] = {
    "empty": ((), [((), "extents")]),
    "count 0": ((Extent(0, 0, 1), Extent(5, 5, 0)), [((1,), "`count` 0")]),
    "stored 4294967295": ((Extent(HIGHEST + 1, 0, 1),), [((0,), "`stored`")]),
    "seen 4294967295": ((Extent(0, HIGHEST + 1, 1),), [((0,), "`seen`")]),
    "stored past the end": ((Extent(1, 0, ID_COUNT),), [((0,), "`stored`")]),
    "seen past the end": ((Extent(0, HIGHEST, 2),), [((0,), "`seen`")]),
    "overlap in stored": (
        (Extent(50, 0, 5), Extent(0, 100, 10), Extent(9, 200, 1)),
        [((1, 2), "overlap `stored`")],
    ),
    "overlap in seen": (
        (Extent(0, 30, 10), Extent(100, 200, 1), Extent(20, 25, 6)),
        [((0, 2), "overlap `seen`")],
    ),
    "the same twice": (
        (Extent(7, 7, 1), Extent(7, 7, 1)),
        [((0, 1), "overlap `stored`"), ((0, 1), "overlap `seen`")],
    ),
    "one over several": (
        (Extent(0, 0, 100), Extent(10, 1000, 1), Extent(90, 2000, 20)),
        [((0, 1), "overlap `stored`"), ((0, 2), "overlap `stored`")],
    ),
    "several faults": (
        (Extent(0, 0, 0), Extent(5, HIGHEST, 2), Extent(6, 9, 1)),
        [((0,), "`count`"), ((1,), "`seen`"), ((1, 2), "overlap `stored`")],
    ),
    "341 extents": (scattered(341), [((), "341")]),
    "4,096 bytes": (of_bytes(4096), [((), "4096")]),
}


@pytest.mark.parametrize(("extents", "wanted"), REFUSED.values(), ids=REFUSED)
def test_each_fault_is_found_and_names_the_extents_it_is_about(
    extents: Extents, wanted: list[tuple[tuple[int, ...], str]]
) -> None:
    found = refusals(extents)
    assert [tuple(sorted(each.extents)) for each in found] == [where for where, _ in wanted]
    for refusal, (_, words) in zip(found, wanted, strict=True):
        assert all(word in refusal.reason for word in words.split())


def is_taken(idmap: Idmapping) -> bool:
    """Whether this machine's kernel takes the maps."""
    try:
        make_user_namespace(idmap).close()
    except OSError as error:
        if error.errno != EINVAL:
            raise
        return False
    return True


@pytest.mark.parametrize("side", Idmapping._fields)
@pytest.mark.parametrize(
    "extents", [*TAKEN.values(), *(each for each, _ in REFUSED.values())], ids=[*TAKEN, *REFUSED]
)
def test_the_kernel_draws_its_limits_at_the_same_places(extents: Extents, side: str) -> None:
    idmap = Idmapping(IDENTITY, IDENTITY)._replace(**{side: extents})
    assert is_taken(idmap) == (not refusals(extents))


small = st.builds(Extent, st.integers(0, 30), st.integers(0, 30), st.integers(0, 6))
at_the_end = st.builds(
    Extent,
    st.integers(HIGHEST - 3, HIGHEST + 1),
    st.integers(HIGHEST - 3, HIGHEST + 1),
    st.integers(1, 4) | st.sampled_from((HIGHEST, ID_COUNT)),
)
anything = st.lists(small | at_the_end, max_size=7).map(tuple)


@settings(max_examples=200)
@given(maps(340) | anything)
def test_the_kernel_takes_what_is_not_refused_and_nothing_else(extents: Extents) -> None:
    assert is_taken(Idmapping(extents, IDENTITY)) == (not refusals(extents))


def overlapping(extents: Extents, side: str) -> set[tuple[int, int]]:
    """The pairs of extents that have an id in common, found by looking at each pair."""
    runs = []
    for extent in extents:
        first = getattr(extent, side)
        runs.append((first, first + extent.count))
    return {
        (here, there)
        for there, (start, end) in enumerate(runs)
        for here, (other, its_end) in enumerate(runs[:there])
        if max(start, other) < min(end, its_end)
    }


@given(anything)
@pytest.mark.parametrize("side", ["stored", "seen"])
def test_every_extent_that_overlaps_is_named_beside_one_it_overlaps(
    side: str, extents: Extents
) -> None:
    wanted = overlapping(extents, side)
    named = {
        tuple(sorted(each.extents))
        for each in refusals(extents)
        if "overlap" in each.reason and f"`{side}`" in each.reason
    }
    assert named <= wanted
    for each in refusals(extents):
        if "overlap" in each.reason and f"`{side}`" in each.reason:
            ids = [int(word) for word in each.reason.split() if word.isdigit()]
            for index in each.extents:
                first, count = getattr(extents[index], side), extents[index].count
                assert all(first <= id_ < first + count for id_ in ids), each.reason
    assert {index for pair in named for index in pair} == {each for pair in wanted for each in pair}


@pytest.mark.parametrize(
    ("idmap", "words"),
    [
        (None, "no idmapping"),
        (Idmapping(IDENTITY, IDENTITY), "each id as itself"),
        (Idmapping(swap(501, 1000), swap(20, 1000)), "uid 501↔1000, gid 20↔1000"),
        (Idmapping(swap(1000, 1001), IDENTITY), "uid 1000↔1001"),
        (Idmapping(IDENTITY, swap(0, HIGHEST)), "gid 0↔4294967294"),
        (
            Idmapping((Extent(100000, 0, 65536),), IDENTITY),
            "uid 100000-165535→0-65535 and no others",
        ),
        (Idmapping((Extent(0, 0, 10),), IDENTITY), "uid 0-9→0-9 and no others"),
        (
            Idmapping(swap(501, 1000, (Extent(0, 0, 65536),)), IDENTITY),
            "uid 501↔1000 within 0-65535",
        ),
    ],
)
def test_an_idmapping_in_words(idmap: Idmapping | None, words: str) -> None:
    assert in_words(idmap) == words


def test_a_map_that_leaves_ids_out_does_not_read_like_the_whole_one() -> None:
    alone = (Extent(501, 1000, 1), Extent(1000, 501, 1))
    assert in_words(Idmapping(alone, IDENTITY)) != in_words(Idmapping(swap(501, 1000), IDENTITY))
