"""Ids as people write them: a second look where two spellings mean one clip, and words for what differs.

An id counts as it is written.  The one exception are letters with accents, which two systems write as different code
points (composed, NFC, and combining, NFD) and every system shows alike: find_ids takes them for the same where that is
unambiguous.  Blanks, zeros, slashes and case are never forgiven; messages name them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NONE = -1
NUM_EXAMPLES = 3
_IDS_AT_ONCE = 1 << 16


class ClipIds(Sequence[str]):
    """The ids of N clips in one Arrow array, which takes less memory than Python strings and is saved at once.

    It is read as a list is, and equals a list of the same ids.

    Args:
        ids: strings, none of them null: any sequence, or an Arrow array, which is not copied.
    """

    def __init__(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        if isinstance(ids, ClipIds):
            ids = ids.array
        if not isinstance(ids, pa.Array | pa.ChunkedArray):
            ids = pa.array(ids, pa.large_string())
        self.array: pa.Array | pa.ChunkedArray = ids

    @classmethod
    def from_bytes(cls, text: np.ndarray, lengths: np.ndarray) -> ClipIds:
        """Take up what `as_bytes` gave; nothing but the lengths is copied.

        Raises:
            ValueError: the lengths are not those of the text, or the text is no UTF-8.
        """
        if (lengths < 0).any() or int(lengths.sum(dtype=np.int64)) != len(text):
            raise ValueError(f"expected ids of {len(text)} bytes together, got {int(lengths.sum(dtype=np.int64))}")
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        array = pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(ends), pa.py_buffer(text))
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"ids that are no text: {error}") from error
        return cls(array)

    def as_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids as UTF-8, (bytes,) uint8, one after the other, and the (N,) int32 bytes of each.

        The text is not copied where the ids lie in one piece.
        """
        lengths = pc.binary_length(self.array).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        pieces = self.array.chunks if isinstance(self.array, pa.ChunkedArray) else [self.array]
        texts = [_text_of(piece) for piece in pieces if len(piece)]
        return (texts[0] if len(texts) == 1 else np.concatenate([np.zeros(0, np.uint8), *texts])), lengths

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> ClipIds: ...
    def __getitem__(self, row: int | slice) -> str | ClipIds:
        if isinstance(row, slice):
            return ClipIds(self.array[row])
        clip_id: str = self.array[row].as_py()
        return clip_id

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _IDS_AT_ONCE):
            yield from self.array.slice(first, _IDS_AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClipIds):
            return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)
        if len(self) != len(other):
            return False
        (text, lengths), (other_text, other_lengths) = self.as_bytes(), other.as_bytes()
        return np.array_equal(lengths, other_lengths) and np.array_equal(text, other_text)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        examples = ", ".join(repr(clip_id) for clip_id in self[:NUM_EXAMPLES])
        return f"ClipIds({len(self)}: {examples}{', ...' if len(self) > NUM_EXAMPLES else ''})"


@dataclass(frozen=True)
class IdMatch:
    """Where ids were found.

    Attributes:
        place: (M,) int64, for each id its first place among those that there are; NONE where it is not there.
        num_respelt: how many of the M were found on the second look only, in another Unicode form.
        num_ambiguous: how many were not, because several ids differ from them in nothing but Unicode form.
    """

    place: np.ndarray
    num_respelt: int
    num_ambiguous: int


def find_ids(ids: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> IdMatch:
    """Find ids among others: as they are written, then in composed letters (NFC) where only one can be meant.

    Unambiguous is what has one spelling on either side: of `ids` and of `among`, only one is written so that it has
    this composed form.

    Args:
        ids: (M,) strings to look for; a null is not found.
        among: (N,) strings that there are.
    """
    ids, among = _whole(ids), _whole(among)
    place = _first_place(ids, among)
    missing = np.flatnonzero((place == NONE) & pc.is_valid(ids).to_numpy(zero_copy_only=False))
    missing = missing[~pc.string_is_ascii(ids.take(pa.array(missing))).to_numpy(zero_copy_only=False)]
    if not len(missing):
        return IdMatch(place, 0, 0)
    composed_ids, spellings = _compose(ids)
    composed_among, spellings_among = _compose(among)
    second = _first_place(composed_ids.take(pa.array(missing)), composed_among)
    has_other_form = second != NONE
    missing, second = missing[has_other_form], second[has_other_form]
    unambiguous = (spellings[missing] == 1) & (spellings_among[second] == 1)
    place[missing[unambiguous]] = second[unambiguous]
    return IdMatch(place, int(unambiguous.sum()), int((~unambiguous).sum()))


class BlockwiseIds:
    """find_ids for ids that come block by block: memory for a block of them, and about 6 bytes for each of the N.

    Whether another Unicode form is unambiguous is known at the end only; until then keep the ids that `may_be_respelt`.
    A block costs a look at all N: let it have half a million ids where N is millions.

    Args:
        among: (N,) strings that there are.
    """

    def __init__(self, among: pa.Array | pa.ChunkedArray) -> None:
        self._among = among if isinstance(among, pa.ChunkedArray) else pa.chunked_array([among])
        self._is_named = np.zeros(len(among), dtype=bool)

    def find(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(M,) int64, for each id of a block its first place as it is written; NONE where it is not there."""
        encoded = _whole(ids).dictionary_encode()
        place_of = np.full(len(encoded.dictionary), NONE, np.int64)
        numbers = pc.index_in(self._among, value_set=encoded.dictionary.cast(self._among.type), skip_nulls=True)
        first = len(self._among)
        for part in reversed(numbers.chunks):  # so that of several places the first is written last
            first -= len(part)
            rows = np.flatnonzero(pc.is_valid(part).to_numpy(zero_copy_only=False))
            place_of[pc.drop_null(part).to_numpy()[::-1]] = first + rows[::-1]
        self._is_named[place_of[place_of != NONE]] = True
        return np.append(place_of, NONE)[pc.fill_null(encoded.indices, len(place_of)).to_numpy()]

    def may_be_respelt(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(M,) bool, whether an id that is not there as it is written may be there in another Unicode form."""
        ids = _whole(ids)
        other = pc.invert(pc.string_is_ascii(ids))
        if not self._has_uncomposed:
            other = pc.and_(other, pc.not_equal(ids, pc.utf8_normalize(ids, "NFC")))
        return pc.fill_null(other, False).to_numpy(zero_copy_only=False)

    def find_respelt(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(M,) int64, the second look of find_ids, at all ids of all blocks that `may_be_respelt`."""
        place = find_ids(ids, self._among).place
        place[np.append(self._is_named, False)[place]] = NONE
        return place

    @cached_property
    def _has_uncomposed(self) -> bool:
        for part in self._among.chunks:
            for first in range(0, len(part), _IDS_AT_ONCE):
                some = part.slice(first, _IDS_AT_ONCE)
                some = some.filter(pc.invert(pc.string_is_ascii(some)))
                if pc.any(pc.not_equal(some, pc.utf8_normalize(some, "NFC")), min_count=0).as_py():
                    return True
        return False


def compose_where_unambiguous(first: pa.Array, second: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Two columns of large strings with what has one spelling in each of them in composed letters (NFC).

    Equal values are then what find_ids takes for the same.
    """
    composed, spellings = zip(*(_compose(column) for column in (first, second)), strict=True)
    results = []
    for number, column in enumerate((first, second)):
        other = 1 - number
        place = _first_place(composed[number], composed[other])
        ambiguous = spellings[number] > 1
        is_shared = place != NONE
        ambiguous[is_shared] |= spellings[other][place[is_shared]] > 1
        results.append(pc.if_else(pa.array(ambiguous), column, composed[number]))
    return results[0], results[1]


def explain_difference(first: str, second: str) -> str:
    """Say in which ways of writing two ids differ, such as "in Unicode form" or "in blanks and in case".

    "" where they are equal, and where they differ in more than writing.
    """
    if first == second:
        return ""
    kinds = list(_SPELLINGS)
    if _plain(first, kinds) != _plain(second, kinds):
        return ""
    for kind in list(_SPELLINGS):
        fewer = [other for other in kinds if other != kind]
        if _plain(first, fewer) == _plain(second, fewer):
            kinds = fewer
    return " and ".join(kinds)


def show_pair(first: str, second: str) -> tuple[str, str]:
    """Quote two different ids so that they look different: code points are written out where they must be."""
    if ascii(first) == repr(first) and ascii(second) == repr(second):
        return repr(first), repr(second)
    is_form = "in Unicode form" in explain_difference(first, second)
    hidden = any(_is_invisible(letter) for letter in first + second)
    return (ascii(first), ascii(second)) if is_form or hidden else (repr(first), repr(second))


def explain_missing(missing: Iterable[str], among: Sequence[str]) -> str:
    """Say which of the ids that were not found are there in another spelling; "" where none of the examples is.

    Example: '001' is there as '1' (they differ in leading zeros)

    Args:
        missing: ids that are not among `among`; the first thousand are looked at.
        among: those that there are.
    """
    kinds = list(_SPELLINGS)
    asked = {_plain(clip_id, kinds): clip_id for _, clip_id in zip(range(1000), missing, strict=False)}
    examples: dict[str, str] = {}
    for clip_id in among:
        plain = _plain(clip_id, kinds)
        if plain in asked:
            examples.setdefault(asked[plain], clip_id)
            if len(examples) == NUM_EXAMPLES:
                break
    return "; ".join(_explain(first, second) for first, second in examples.items())


def describe_changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Say how many ids are gone and how many are new, with examples; "" where both are the same, in any order.

    Example: 2 are gone (such as 'a.mp4', 'b.mp4'), 1 is new (such as 'c.mp4')
    """
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    parts = []
    for what, ids in (("gone", gone), ("new", new)):
        if ids:
            examples = ", ".join(repr(clip_id) for clip_id in ids[:NUM_EXAMPLES])
            parts.append(f"{len(ids):,} {'is' if len(ids) == 1 else 'are'} {what} (such as {examples})")
    explained = explain_missing(gone, new) if gone and new else ""
    return "; ".join(filter(None, (", ".join(parts), explained)))


def _explain(missing: str, present: str) -> str:
    first, second = show_pair(missing, present)
    return f"{first} is there as {second} (they differ {explain_difference(missing, present)})"


def _plain(text: str, kinds: Sequence[str]) -> str:
    for kind in kinds:
        text = _SPELLINGS[kind](text)
    return text


def _is_invisible(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf", "Zs", "Zl", "Zp")


def _compose_letters(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _without_blanks(text: str) -> str:
    return "".join(letter for letter in text if not _is_invisible(letter))


def _with_plain_slashes(text: str) -> str:
    return re.sub(r"/(?:\.?/)+", "/", "/" + text.replace("\\", "/") + "/")


def _without_leading_zeros(text: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


_SPELLINGS = {
    "in blanks": _without_blanks,
    "in slashes": _with_plain_slashes,
    "in leading zeros": _without_leading_zeros,
    "in case": str.casefold,
    "in Unicode form": _compose_letters,
}
"""What the writing of an id may differ in, and how to write it without that."""


def _compose(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The ids in composed letters, and for each the number of different spellings that have the same."""
    encoded = ids.dictionary_encode()
    composed = pc.utf8_normalize(encoded.dictionary, "NFC")
    groups = composed.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    spellings = np.bincount(groups)[groups] if len(groups) else np.zeros(0, np.int64)
    rows = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return composed.take(encoded.indices), spellings[rows] if len(groups) else np.zeros(len(ids), np.int64)


def _first_place(ids: pa.Array, among: pa.Array) -> np.ndarray:
    places = pc.fill_null(pc.index_in(ids, value_set=among, skip_nulls=True), NONE)
    return places.to_numpy(zero_copy_only=False).astype(np.int64)


def _text_of(ids: pa.Array) -> np.ndarray:
    """The bytes of the texts of an array of strings, (bytes,) uint8, which are not copied."""
    _, ends, text = ids.buffers()
    kind = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    first, last = np.frombuffer(ends, kind)[[ids.offset, ids.offset + len(ids)]].tolist()
    return np.zeros(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)[first:last]


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One piece whatever its length: offsets of plain strings end at 2 GB."""
    whole = column.cast(pa.large_string())
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
