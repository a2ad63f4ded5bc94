"""Ids: the second look for composed and combining letters, and the words for what differs."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavi.ids import (
    NONE,
    BlockwiseIds,
    ClipIds,
    describe_changes,
    explain_difference,
    explain_missing,
    find_ids,
    show_pair,
)

COMPOSED, COMBINING = "caf\u00e9/\u00e5.mp4", "cafe\u0301/a\u030a.mp4"
NAMES = st.text(st.sampled_from("ae\u0301\u0300\u00e9\u00e8\u1ec7\u0323\u0302/01"), max_size=6)


def places(ids: list[str | None], among: list[str | None]) -> list[int]:
    return find_ids(pa.array(ids, pa.string()), pa.array(among, pa.string())).place.tolist()


def test_what_is_written_alike_comes_first() -> None:
    among = [COMBINING, COMPOSED, "a", "a"]
    assert places([COMPOSED, COMBINING, "a", "b", None], among) == [1, 0, 2, NONE, NONE]


@pytest.mark.parametrize(("one", "other"), [(COMPOSED, COMBINING), (COMBINING, COMPOSED)])
def test_one_spelling_on_either_side_is_found_and_counted(one: str, other: str) -> None:
    match = find_ids(pa.chunked_array([["x"], [one, one]]), pa.array(["y", other]))
    assert match.place.tolist() == [NONE, 1, 1]
    assert (match.num_respelt, match.num_ambiguous) == (2, 0)


def test_several_spellings_are_not_guessed() -> None:
    mixed = "cafe\u0301/\u00e5.mp4"
    match = find_ids(pa.array([mixed]), pa.array([COMPOSED, COMBINING]))
    assert match.place.tolist() == [NONE]
    assert (match.num_respelt, match.num_ambiguous) == (0, 1)
    match = find_ids(pa.array([COMPOSED, COMBINING]), pa.array([mixed]))
    assert match.place.tolist() == [NONE, NONE]
    assert match.num_ambiguous == 2


@pytest.mark.parametrize("among", [[], [None]])
def test_nothing_to_find(among: list[None]) -> None:
    assert places([COMPOSED, None], among) == [NONE, NONE]
    assert places([], [COMPOSED]) == []


@given(st.lists(NAMES, max_size=8), st.lists(NAMES, max_size=8))
def test_every_match_is_what_the_rule_says(ids: list[str], among: list[str]) -> None:
    def spellings(names: list[str], of: str) -> set[str]:
        composed = unicodedata.normalize("NFC", of)
        return {name for name in names if unicodedata.normalize("NFC", name) == composed}

    match = find_ids(pa.array(ids, pa.string()), pa.array(among, pa.string()))
    for clip_id, place in zip(ids, match.place, strict=True):
        if clip_id in among:
            assert place == among.index(clip_id)
        elif len(spellings(ids, clip_id)) == 1 and len(spellings(among, clip_id)) == 1:
            assert among[place] in spellings(among, clip_id)
        else:
            assert place == NONE
    assert match.num_respelt == sum(
        place != NONE and among[place] != clip_id for clip_id, place in zip(ids, match.place, strict=True)
    )


def test_the_first_of_equal_ids_is_found_in_whichever_piece() -> None:
    pieces = pa.chunked_array([["a", "b", "b"], ["a", "b", "c"]])
    assert BlockwiseIds(pieces).find(pa.array(["b", "c", "a", None, "d"])).tolist() == [1, 5, 0, NONE, NONE]


@given(st.lists(NAMES | st.none(), max_size=8), st.lists(NAMES, max_size=8), st.integers(1, 4), st.integers(0, 8))
def test_ids_in_blocks_are_found_as_all_at_once(
    ids: list[str | None], among: list[str], at_once: int, cut: int
) -> None:
    blockwise = BlockwiseIds(pa.chunked_array([among[:cut], among[cut:]], pa.string()))
    found = np.full(len(ids), NONE)
    late = np.zeros(len(ids), dtype=bool)
    for first in range(0, len(ids), at_once):
        block, rows = pa.array(ids[first : first + at_once], pa.large_string()), slice(first, first + at_once)
        found[rows] = blockwise.find(block)
        late[rows] = (found[rows] == NONE) & blockwise.may_be_respelt(block)
    found[late] = blockwise.find_respelt(pa.array(ids, pa.large_string()).filter(pa.array(late)))
    assert found.tolist() == find_ids(pa.array(ids, pa.string()), pa.array(among, pa.string())).place.tolist()


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (COMPOSED, COMBINING, "in Unicode form"),
        ("a b.mp4", "a b.mp4 ", "in blanks"),
        ("a b", "a\u00a0b", "in blanks"),
        ("\ufeffa", "a", "in blanks"),
        ("001", "1", "in leading zeros"),
        ("clip_07", "clip_7", "in leading zeros"),
        ("a\\b.mp4", "a/b.mp4", "in slashes"),
        ("./a//b.mp4", "a/b.mp4", "in slashes"),
        ("/a", "a", "in slashes"),
        ("A/b.MP4", "a/b.mp4", "in case"),
        (" 01", "1", "in blanks and in leading zeros"),
        ("\u00c9\\1", "e\u0301/1", "in slashes and in case and in Unicode form"),
        ("a", "b", ""),
        ("10", "1", ""),
        ("a", "a", ""),
        ("100", "1", ""),
        ("a/b", "ab", ""),
    ],
)
def test_what_differs_is_named(first: str, second: str, difference: str) -> None:
    assert explain_difference(first, second) == difference
    assert explain_difference(second, first) == difference


@given(NAMES, NAMES)
def test_two_different_ids_are_never_shown_alike(first: str, second: str) -> None:
    if first != second:
        shown, other = show_pair(first, second)
        assert unicodedata.normalize("NFC", shown) != unicodedata.normalize("NFC", other)


def test_blanks_are_shown_where_they_differ() -> None:
    assert show_pair("a\u00a0b", "a b") == (r"'a\xa0b'", "'a b'")
    assert show_pair("\u00e9", "e") == ("'\u00e9'", "'e'")


def test_missing_ids_are_explained_by_those_that_are_there() -> None:
    explained = explain_missing(["x", "001", COMPOSED], ["1", COMBINING, "z"])
    assert "'001' is there as '1' (they differ in leading zeros)" in explained
    assert ascii(COMBINING) in explained and "in Unicode form" in explained
    assert explain_missing(["x"], ["y"]) == ""


def test_many_ids_at_once() -> None:
    among = pa.array([f"clip\u00e9{number}" for number in range(50_000)])
    ids = pa.array([f"clipe\u0301{number}" for number in range(50_000)])
    match = find_ids(ids, among)
    assert np.array_equal(match.place, np.arange(50_000))
    assert match.num_respelt == 50_000


def test_changes_are_counted_and_named() -> None:
    assert describe_changes(["a", "b", "c"], ["c", "b", "a"]) == ""
    assert describe_changes(["a", "b", "c"], ["c", "d"]) == "2 are gone (such as 'a', 'b'), 1 is new (such as 'd')"
    assert describe_changes(["01"], ["1"]).endswith("; '01' is there as '1' (they differ in leading zeros)")


@given(st.lists(st.text(max_size=4), max_size=9), st.integers(0, 9), st.booleans())
def test_ids_in_one_array_are_read_as_a_list(ids: list[str], cut: int, in_pieces: bool) -> None:
    pieces = pa.chunked_array([ids[:cut], ids[cut:]], pa.string())
    kept = ClipIds(pieces if in_pieces else ids)
    assert (len(kept), [*kept], kept == ids) == (len(ids), ids, True)
    assert [kept[row] for row in range(-len(ids), len(ids))] == ids + ids
    assert [*kept[cut:]] == ids[cut:] and kept[cut:] == ClipIds(ids[cut:])
    text, lengths = kept[cut:].as_bytes()
    assert text.tobytes() == "".join(ids[cut:]).encode()
    assert ClipIds.from_bytes(text, lengths) == ids[cut:]


def test_other_ids_are_not_equal_though_their_texts_are_in_a_row() -> None:
    kept = ClipIds(["ab", "c"])
    assert kept != ClipIds(["a", "bc"]) and kept != ["a", "bc"]
    assert kept != ["ab"] and kept != ["ab", "c", ""] and kept != "abc" and kept != 3
    assert repr(ClipIds("abcd")) == "ClipIds(4: 'a', 'b', 'c', ...)"
