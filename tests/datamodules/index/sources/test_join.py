"""Which file is which row: names of every usual form, ids of every shape, paths that agree as far as both go."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from datamodules.index.sources.join import NONE, SEVERAL, Join, folded, join
from datamodules.index.sources.listing import LISTING_SCHEMA, Listing

LETTERS = "abcABC019-_"
IDS = st.text(LETTERS, min_size=11, max_size=11)
SUFFIXES = st.sampled_from([".mp4", ".MKV", ".webm", ".avi"])


def joined(by: str, names: list[str], paths: list[str], labels: dict[int, str] | None = None) -> Join:
    """Join rows to paths whose label is their first folder; labels: of some rows."""
    rows = [{"name": name, "label": (labels or {}).get(row)} for row, name in enumerate(names)]
    listing = Listing(by, pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))  # type: ignore[arg-type]
    folders = [path.split("/")[0] if "/" in path else None for path in paths]
    # in two pieces, as a table of several files is
    chunks = [pa.chunked_array([pa.array(c[:1], pa.string()), pa.array(c[1:], pa.string())]) for c in (paths, folders)]
    return join(listing, *chunks, root="/data/set")


@given(st.data())
def test_a_clip_is_found_under_every_usual_name(data: st.DataObject) -> None:
    ids = data.draw(st.lists(IDS, min_size=1, max_size=8, unique=True))
    starts = data.draw(st.lists(st.integers(0, 9_999), min_size=len(ids), max_size=len(ids)))
    forms = [
        lambda v, s: f"{v}_{s}",
        lambda v, s: f"{v}_{s:06d}",
        lambda v, s: f"{v}_{s}_{s + 10}",
        lambda v, s: f"{v}_{s:06d}_{s + 10:06d}",
        lambda v, s: f"{v}_{s * 1000}_{s * 1000 + 10_000}",
        lambda v, s: f"{v}_{s * 1000}",
        lambda v, s: f"{v}_{s}.0_{s + 10}.0",
        lambda v, s: v,
    ]
    written = [data.draw(st.sampled_from(forms)) for _ in ids]
    paths = [f"x/{form(v, s)}{data.draw(SUFFIXES)}" for v, s, form in zip(ids, starts, written, strict=True)]
    listed = [data.draw(st.sampled_from(forms[:4])) for _ in ids]
    names = [form(v, s) for v, s, form in zip(ids, starts, listed, strict=True)]
    assert joined("clip", names, paths).row_of_file.tolist() == list(range(len(ids)))


@given(IDS, st.integers(0, 9_999), st.integers(0, 9_999))
def test_another_start_is_another_clip(video: str, listed: int, start: int) -> None:
    found = joined("clip", [f"{video}_{listed}"], [f"{video}_{start:06d}.mp4"]).row_of_file[0]
    assert (found == 0) == (start in (listed, listed * 1000))


def test_ids_are_compared_whole_and_with_case() -> None:
    names = ["4abcdefghim_30", "m4p4m4p4m4p_4", "-_-_-_-_-_-_000", "abc_000_123"]
    paths = ["4abcdefghim_30_40.mp4", "m4p4m4p4m4p_4.mp4", "-_-_-_-_-_-_0.mp4", "abc_000_123.mp4"]
    assert joined("clip", names, paths).row_of_file.tolist() == [0, 1, 2, 3]
    others = ["4ABCDEFGHIM_30.mp4", "4abcdefghim_30_40_x.mp4", "x4abcdefghim_30.mp4", "abcdefghim_30.mp4", "abc.mp4"]
    assert joined("clip", names, others).row_of_file.tolist() == [NONE] * 5


def test_seconds_go_before_milliseconds() -> None:
    names = ["abcdefghijk_3", "abcdefghijk_3000"]
    paths = ["abcdefghijk_3000.mp4", "abcdefghijk_3.mp4", "abcdefghijk_3000000.mp4"]
    assert joined("clip", names, paths).row_of_file.tolist() == [1, 0, 1]


def test_a_list_of_ids_takes_files_with_any_start() -> None:
    found = joined("clip", ["abcdefghijk", "bbcdefghijk"], ["abcdefghijk_30_40.mp4", "bbcdefghijk.mp4"])
    assert found.row_of_file.tolist() == [0, 1]


def test_a_file_without_a_start_needs_a_single_clip_or_its_folder() -> None:
    names, labels = ["abcdefghijk_1", "abcdefghijk_20"], {0: "rain drops", 1: "wind"}
    paths = ["abcdefghijk.mp4", "Rain_Drops/abcdefghijk.mp4", "wind/abcdefghijk.mp4", "hail/abcdefghijk.mp4"]
    assert joined("clip", names, paths, labels).row_of_file.tolist() == [SEVERAL, 0, 1, SEVERAL]
    assert joined("clip", names[:1], paths[:1], labels).row_of_file.tolist() == [0]


def test_rows_of_one_clip_are_known_as_one() -> None:
    names = ["abcdefghijk_1", "bbcdefghijk_1", "abcdefghijk_000001", "abcdefghijk", "abcdefghijk_1_11"]
    assert joined("clip", names, ["a.mp4"]).clip_of_row.tolist() == [0, 1, 0, 3, 0]


def test_paths_agree_as_far_as_both_go() -> None:
    names = ["a/x.mp4", "/old/disk/b/y.avi", "./c//z.mp4", r"d\w.mp4", "/data/set/e/v.mp4", "u"]
    paths = ["a/x.mp4", "b/y.mp4", "deep/c/z.mp4", "w.mkv", "e/v.mp4", "f/u.mp4"]
    assert joined("path", names, paths).row_of_file.tolist() == [0, 1, 2, 3, 4, 5]
    assert joined("path", ["a/x.mp4"], ["b/x.mp4", "A/x.mp4", "xx.mp4", "a/x/x.mp4"]).row_of_file.tolist() == [NONE] * 4
    assert joined("path", ["a/x.mp4", "b/x.mp4"], ["x.mp4"]).row_of_file.tolist() == [SEVERAL]
    assert joined("path", ["/other/a.mp4", "/data/set/a.mp4"], ["a.mp4"]).row_of_file.tolist() == [1]


def test_the_very_file_goes_before_one_with_another_suffix_or_more_folders() -> None:
    paths = ["a/x.mkv", "a/x.mp4", "b/a/x.mp4"]
    assert joined("path", ["a/x.mp4"], paths).row_of_file.tolist() == [NONE, 0, NONE]
    assert joined("path", ["a/x.avi"], paths).row_of_file.tolist() == [0, 0, 0]
    assert joined("path", ["x.mp4", "a/x.mp4"], ["b/a/x.mkv", "c/x.mkv"]).row_of_file.tolist() == [1, 0]


PARTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)


@given(st.lists(PARTS, min_size=1, max_size=5), st.lists(PARTS, min_size=1, max_size=5, unique=True))
def test_paths_are_matched_as_a_slow_search_matches_them(listed: list[str], found: list[str]) -> None:
    """Each file against each row: the same path, else the longest tail that one path shares whole with the other."""
    exact = [listed.index(path) if path in listed else NONE for path in found]
    free = [row for row, name in enumerate(listed) if name not in found]
    expected = []
    for path, row in zip(found, exact, strict=True):
        if row == NONE and free:
            fits = {i: min(len(path), len(listed[i])) for i in free if one_ends_with_the_other(path, listed[i])}
            best = [i for i in fits if fits[i] == max(fits.values())]
            row = NONE if not best else best[0] if len({listed[i] for i in best}) == 1 else SEVERAL
        expected.append(row)
    paths = [f"{path}.mp4" for path in found]
    assert joined("path", [f"{name}.mp4" for name in listed], paths).row_of_file.tolist() == expected


def one_ends_with_the_other(a: str, b: str) -> bool:
    return a == b or a.endswith(f"/{b}") or b.endswith(f"/{a}")


def test_labels_are_compared_by_their_words() -> None:
    labels = pa.array(
        ["Playing Guitar", "playing_guitar", "hurling (sport)", "hurling_(sport)", "Fête, été", None, "-"]
    )
    assert folded(labels).to_pylist() == ["playing_guitar"] * 2 + ["hurling_sport"] * 2 + ["fête_été", "", ""]


def test_an_empty_side_joins_nothing() -> None:
    assert joined("clip", ["abcdefghijk_1"], []).row_of_file.tolist() == []
    for by in ("clip", "path", "class"):
        found = joined(by, [], ["a.mp4", "b/abcdefghijk_1.mp4"])
        assert np.array_equal(found.row_of_file, [NONE, NONE])


def test_composed_and_combining_letters_are_one_where_only_one_can_be_meant() -> None:
    composed, combining, mixed = "caf\u00e9/\u00e5.mp4", "cafe\u0301/a\u030a.mp4", "cafe\u0301/\u00e5.mp4"
    found = joined("path", [composed, "b.mp4"], [combining, "b.mp4"])
    assert (found.row_of_file.tolist(), found.num_respelt) == ([0, 1], 1)
    assert joined("path", [f"/old/{combining}"], [composed.replace(".mp4", ".avi")]).row_of_file.tolist() == [0]
    assert joined("path", [composed, combining], [combining, composed]).row_of_file.tolist() == [1, 0]
    assert joined("path", [mixed], [composed, combining]).row_of_file.tolist() == [NONE, NONE]
    assert joined("path", [composed, combining], [mixed]).row_of_file.tolist() == [NONE]


def test_labels_in_another_unicode_form_are_one() -> None:
    assert folded(pa.array(["Caf\u00e9 noir", "cafe\u0301_noir"])).to_pylist() == ["caf\u00e9_noir"] * 2
