from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selavi import id_tables
from selavi.errors import UsageError
from selavi.training.first import table as table_module
from selavi.training.first.table import open_clusters, put_table_labels

IDS = ["a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"]


def labels_of(text: str, tmp_path: Path, num_columns: int = 2) -> tuple[Tensor, list[str]]:
    path = tmp_path / "clusters.csv"
    path.write_text(text, encoding="utf-8")
    return put_labels(path, num_columns)


def put_labels(path: Path, num_columns: int) -> tuple[Tensor, list[str]]:
    """Labels of three clusters, and what is said of them."""
    labels = torch.full((len(IDS), num_columns), -7, dtype=torch.int32)
    made = put_table_labels(open_clusters(path), f"labelling.first={path}", IDS, 3, labels)
    return labels, made.notes


def rows(*pairs: tuple[object, ...], header: str = "id,cluster") -> str:
    return "\n".join([header, *(",".join(map(str, pair)) for pair in pairs)]) + "\n"


def test_all_heads_learn_the_one_clustering(tmp_path: Path) -> None:
    labels, notes = labels_of(rows(*zip(reversed(IDS), "xxyz", strict=True)), tmp_path)
    assert labels.tolist() == [[2, 2], [1, 1], [0, 0], [0, 0]]
    assert notes == []


def test_whole_numbers_below_k_keep_their_meaning(tmp_path: Path) -> None:
    labels, _ = labels_of(rows(*zip(IDS, [2, 2, 0, 0], strict=True)), tmp_path)
    assert labels[:, 0].tolist() == [2, 2, 0, 0]


def test_other_numbers_are_numbered_in_their_order(tmp_path: Path) -> None:
    labels, _ = labels_of(rows(*zip(IDS, [10, 9, 10, -1], strict=True)), tmp_path)
    assert labels[:, 0].tolist() == [1, 0, 1, 2]


def test_each_head_learns_its_own_of_an_exported_table(tmp_path: Path) -> None:
    path = tmp_path / "clusters.parquet"
    columns = {"id": IDS * 2, "head": [1] * 4 + [0] * 4, "cluster": [0, 0, 1, 1, 2, 1, 2, 1], "path": IDS * 2}
    pq.write_table(pa.table(columns), path)
    labels, notes = put_labels(path, 2)
    assert labels.T.tolist() == [[2, 1, 2, 1], [0, 0, 1, 1]]
    assert notes == []


def test_heads_are_taken_in_turn_where_their_numbers_differ_and_that_is_said(tmp_path: Path) -> None:
    text = rows(
        *((name, head, (head + place) % 2) for head in (2, 10) for place, name in enumerate(IDS)),
        header="id,head,cluster",
    )
    labels, notes = labels_of(text, tmp_path, num_columns=3)
    assert labels.T.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert notes == ["it has 2 heads for 3 of the run, in turn"]


def test_clips_without_a_row_learn_nothing_and_are_counted(tmp_path: Path) -> None:
    labels, notes = labels_of(rows((IDS[0], "x"), (IDS[3], "y"), (IDS[1], ""), ("other.mp4", "z")), tmp_path)
    assert labels[:, 0].tolist() == [0, -1, -1, 1]
    assert notes == [
        "2 of 4 clips have no cluster there, and learn none before labelling",
        "2 of 4 rows are of other clips, or without a cluster",
    ]


def test_a_row_twice_is_no_contradiction(tmp_path: Path) -> None:
    labels, _ = labels_of(rows((IDS[0], "x"), (IDS[0], "x"), (IDS[1], "y")), tmp_path)
    assert labels[:, 0].tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\na/1.mp4,0\n", "cluster"),
        (rows(("1.mp4", 0), ("2.mp4", 1)), r"none of its 2 rows names one of the 4 training clips; .*'a/1.mp4'"),
        (rows((IDS[0], ""), (IDS[1], "")), "none of its 2 rows has a cluster"),
        (rows((IDS[0], 0), (IDS[0], 1), (IDS[1], 1)), r"gives 1 clips more than one cluster, such as 'a/1.mp4'"),
        (rows(*zip(IDS, "wxyz", strict=True)), r"has 4 clusters, expected 2 to heads.num_clusters=3; set heads.num_cl"),
        (rows(*((name, "x") for name in IDS)), r"has 1 cluster, expected 2 to heads.num_clusters=3; bring a clust"),
        (rows((IDS[0], "", 1), (IDS[1], 0, 2), header="id,head,cluster"), "1 of 2 rows have no head"),
        (
            rows((IDS[0], 1, 0), (IDS[0], 1, 1), (IDS[1], 1, 1), header="id,head,cluster"),
            "more than one cluster under head 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_change(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labels_of(text, tmp_path)


def test_a_file_that_is_not_there_may_be_a_misspelt_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; it is crafted, kmeans, random, or a table"):
        open_clusters(tmp_path / "craftd")


# ---- in blocks ----

COMPOSED, APART = "caf\u00e9", "cafe\u0301"
Row = tuple[str, str, str]
named = st.sampled_from([*IDS, COMPOSED, APART, "other.mp4"])
tables = st.lists(st.tuples(named, st.sampled_from(["2", "10", "x"]), st.sampled_from(["0", "1", "y", ""])), min_size=1)


def outcome(path: Path, rows_at_once: int) -> tuple[list[list[int]], list[str], list[tuple[int, int, str]]] | str:
    """What two heads of a run get of a table that is read so many rows at once, or the error."""
    labels = torch.full((len(IDS) + 1, 2), -7, dtype=torch.int32)
    with (
        mock.patch.object(id_tables, "_ROWS_AT_ONCE", rows_at_once),
        mock.patch.object(table_module, "_ROWS_AT_ONCE", rows_at_once),
        mock.patch.object(table_module, "_CLIPS_AT_ONCE", rows_at_once),
    ):
        try:
            made = put_table_labels(open_clusters(path), "it", [*IDS, COMPOSED], 3, labels)
        except UsageError as error:
            return str(error)
    return labels.tolist(), made.notes, made.names


def by_hand(table: list[Row]) -> list[list[int]]:
    """The labels of a table that is fit for use: a dict for each head."""
    spelt = {clip_id for clip_id, *_ in table}
    respelt = {} if COMPOSED in spelt else {APART: COMPOSED}
    heads: dict[str, dict[str, str]] = {}
    for clip_id, head, word in table:
        if word and respelt.get(clip_id, clip_id) in (*IDS, COMPOSED):
            heads.setdefault(head, {})[respelt.get(clip_id, clip_id)] = word
    columns = []
    for head in sorted(heads, key=lambda name: (not name.isdigit(), len(name))):
        words = sorted(set(heads[head].values()))
        numbers = {word: int(word) for word in words} if "y" not in words else {w: n for n, w in enumerate(words)}
        columns.append([numbers[heads[head][one]] if one in heads[head] else -1 for one in [*IDS, COMPOSED]])
    return [list(pair) for pair in zip(columns[0], columns[1 % len(columns)], strict=True)]


@settings(deadline=None, max_examples=60)
@given(table=tables)
def test_small_blocks_say_what_one_block_says(tmp_path_factory: pytest.TempPathFactory, table: list[Row]) -> None:
    path = tmp_path_factory.mktemp("table") / "clusters.csv"
    path.write_text(rows(*table, header="id,head,cluster"), encoding="utf-8")
    whole = outcome(path, 1 << 16)
    assert [outcome(path, size) for size in (1, 2, 3)] == [whole] * 3
    if not isinstance(whole, str):
        assert whole[0] == by_hand(table)


def test_doubles_are_seen_across_the_border_of_blocks_and_words_may_come_late(tmp_path: Path) -> None:
    path = tmp_path / "clusters.csv"
    path.write_text(rows((IDS[2], "y"), (IDS[0], "x"), (IDS[1], "z"), (IDS[0], "y"), (IDS[2], "x")), encoding="utf-8")
    assert "gives 2 clips more than one cluster, such as 'a/1.mp4', 'b/1.mp4'" in str(outcome(path, 2))
    path.write_text(rows((IDS[0], "1"), (IDS[1], "0"), (IDS[2], "1"), (IDS[3], "late")), encoding="utf-8")
    assert outcome(path, 2)[0] == [[1, 1], [0, 0], [1, 1], [2, 2], [-1, -1]]


def test_a_head_that_comes_behind_those_of_the_run_may_be_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "clusters.csv"
    of_heads = [(clip_id, head, place % 2) for head in (9, 8, 1) for place, clip_id in enumerate(IDS, head == 1)]
    path.write_text(rows(*of_heads, header="id,head,cluster"), encoding="utf-8")
    labels, notes, _ = outcome(path, 1)
    assert labels == [[1, 0], [0, 1], [1, 0], [0, 1], [-1, -1]]
    assert "it has 3 heads for 2 of the run, in turn" in notes
