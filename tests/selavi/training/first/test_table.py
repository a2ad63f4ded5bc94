from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from selavi.errors import UsageError
from selavi.training.first.table import put_table_labels, read_clusters

IDS = ["a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"]


def labels_of(text: str, tmp_path: Path, num_columns: int = 2) -> tuple[Tensor, list[str]]:
    path = tmp_path / "clusters.csv"
    path.write_text(text, encoding="utf-8")
    return put_labels(path, num_columns)


def put_labels(path: Path, num_columns: int) -> tuple[Tensor, list[str]]:
    """Labels of three clusters, and what is said of them."""
    labels = torch.full((len(IDS), num_columns), -7, dtype=torch.int32)
    made = put_table_labels(read_clusters(path), f"labelling.first={path}", IDS, 3, labels)
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
        read_clusters(tmp_path / "craftd")
