import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from selavi.errors import UsageError
from selavi.evaluation.external import SHOWN, evaluate_files, format_scores, read_column, read_joined

IDS = [f"-clip {number},é" for number in range(40)]
CLUSTERS = [number % 5 for number in range(40)]
LABELS = [f"label {number % 5 if number % 3 else number % 2}" for number in range(40)]


def write(path: Path, columns: dict[str, list]) -> Path:
    """CSV, quoted where it must be."""
    cells = [list(columns), *zip(*columns.values(), strict=True)]
    lines = [",".join('"' + c + '"' if "," in (c := str(cell)) else c for cell in row) for row in cells]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def expected_nmi() -> float:
    return sklearn_metrics.normalized_mutual_info_score(LABELS, CLUSTERS)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kinds", [(write, write), (parquet, parquet), (write, parquet)])
def test_any_order_and_either_format(
    tmp_path: Path, shuffled: bool, kinds: tuple[Callable[..., Path], Callable[..., Path]]
) -> None:
    order = np.random.default_rng(0).permutation(40) if shuffled else np.arange(40)
    clusters = kinds[0](tmp_path / "clusters", {"note": IDS, "cluster": CLUSTERS, "id": IDS})
    labels = kinds[1](tmp_path / "labels", {"id": [IDS[i] for i in order], "label": [LABELS[i] for i in order]})
    found = evaluate_files(clusters, labels)
    assert found["nmi"] == pytest.approx(expected_nmi(), abs=1e-12)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(LABELS, CLUSTERS), abs=1e-12)
    assert (found["n"], found["used_clusters"], found["num_labels"]) == (40, 5, 5)
    kept = json.loads((tmp_path / "clusters_metrics.json").read_text())
    assert kept == {name: value for name, value in found.items() if name != "written"}
    assert set(kept["intervals"]["nmi"]) == {"low", "high", "bias"}
    assert evaluate_files(clusters, labels) == found
    text = format_scores(found)
    assert f"nmi{found['nmi']:23.3f}" in text
    assert all(f"\n{name} " in text for name in SHOWN)
    assert text.endswith(f"full figures: {tmp_path}/clusters_metrics.json")


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", {"id": IDS, "label": LABELS, "cluster": CLUSTERS})
    assert evaluate_files(path, path)["nmi"] == pytest.approx(expected_nmi(), abs=1e-12)


@pytest.mark.parametrize("name", ["c.tsv", "c.csv.gz", "bom.csv", "crlf.csv"])
def test_other_ways_to_write_a_csv(tmp_path: Path, name: str) -> None:
    text = "id,cluster\na,1\nb,x\n"
    path = tmp_path / name
    if name == "c.tsv":
        path.write_text(text.replace(",", "\t"))
    elif name == "c.csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif name == "bom.csv":
        path.write_text(text, encoding="utf-8-sig")
    else:
        path.write_bytes(text.replace("\n", "\r\n").encode())
    assert read_column(path, "cluster").columns.to_pydict() == {"id": ["a", "b"], "cluster": ["1", "x"]}


def test_cells_of_a_csv_are_names_and_not_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.csv", {"id": ["007", "7", "1e3", "true", "NA"], "cluster": ["01", "1", "1.0", "None", " "]}
    )
    found = read_column(path, "cluster").columns.to_pydict()
    assert found == {"id": ["007", "7", "1e3", "true", "NA"], "cluster": ["01", "1", "1.0", "None", " "]}


@pytest.mark.parametrize(
    ("ids", "clusters"),
    [
        (pa.array([1, 2, 3]), pa.array(["a", "b", "a"]).dictionary_encode()),
        (pa.array(["1", "2", "3"], pa.large_string()), pa.array([7, -1, 7], pa.int8())),
        (pa.array(["1", "2", "3"]).dictionary_encode(), pa.array([True, False, True])),
        (pa.array(["1", "2", "3"], pa.string_view()), pa.array([2**63, 1, 2**63], pa.uint64())),
    ],
)
def test_parquet_columns_of_several_types(tmp_path: Path, ids: pa.Array, clusters: pa.Array) -> None:
    labels = write(tmp_path / "labels.csv", {"id": [3, 2, 1], "label": ["x", "y", "x"]})
    found = evaluate_files(parquet(tmp_path / "clusters.parquet", {"id": ids, "cluster": clusters}), labels)
    assert (found["nmi"], found["n"]) == (pytest.approx(1.0), 3)


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        (
            {"id": [*IDS, "x", "y"], "cluster": [*CLUSTERS, 0, 0]},
            {"id": [*IDS[1:], "z"], "label": LABELS},
            "the ids differ: 3 of 42 in C are not in L, such as '-clip 0,é', 'x', 'y'; 1 of 40 in L are not in C, "
            "such as 'z'; 39 match; write both files for the same clips",
        ),
        (
            {"id": IDS, "cluster": CLUSTERS},
            {"id": [f"{i}.mp4" for i in IDS], "label": LABELS},
            "'-clip 2,é.mp4'; 0 match; write the ids of both files in the same way",
        ),
        (
            {"id": [*IDS, IDS[3], IDS[3], IDS[1]], "cluster": [*CLUSTERS, 0, 0, 0]},
            {"id": IDS, "label": LABELS},
            "C: 2 ids occur more than once (43 rows, 40 ids), such as '-clip 1,é', '-clip 3,é': keep one row a clip",
        ),
        (
            {"id": IDS, "cluster": CLUSTERS},
            {"id": IDS, "label": ["", "nan", *[""] * 38]},
            "none of the 40 clips has a label in L; fill in the column label",
        ),
        (
            {"id": ["", *IDS[1:4], "", *IDS[4:]], "cluster": [*CLUSTERS, 0]},
            {"id": IDS, "label": LABELS},
            "C: 2 of 41 rows have no id, such as row 1, 5",
        ),
        (
            {"id": IDS, "Cluster": CLUSTERS},
            {"id": IDS, "label": LABELS},
            "C has the columns id, Cluster; expected id and cluster, once each: rename them",
        ),
        (
            {"id": IDS, "cluster": ["", "NaN", *CLUSTERS[2:]]},
            {"id": IDS, "label": LABELS},
            "C: 2 of 40 clips have no cluster, such as '-clip 0,é', '-clip 1,é': leave them out of both files",
        ),
        (
            {"id": [f"{number:03}" for number in range(40)], "cluster": CLUSTERS},
            {"id": list(range(40)), "label": LABELS},
            "0 match; '000' is there as '0' (they differ in leading zeros)",
        ),
        ({"id": [], "cluster": []}, {"id": IDS, "label": LABELS}, "C holds no row; expected one a clip"),
    ],
    ids=["alone", "none", "twice", "unlabelled", "nameless", "column", "unclustered", "zeros", "empty"],
)
def test_what_cannot_be_joined_is_refused_with_counts(
    tmp_path: Path, clusters: dict[str, list], labels: dict[str, list], message: str
) -> None:
    clusters_path, labels_path = write(tmp_path / "C", clusters), write(tmp_path / "L", labels)
    with pytest.raises(UsageError) as caught:
        evaluate_files(clusters_path, labels_path)
    assert message in str(caught.value).replace(f"{tmp_path}/", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C", "L"]


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (pa.array([1.5, float("nan")]), "the column cluster holds double; expected integers or strings"),
        (pa.array([[1], [2]]), "the column cluster holds list"),
        (pa.array([1.0, float("nan")]), "1 of 2 clips have no cluster, such as 'b'"),
        (pa.array([None, 1]), "1 of 2 clips have no cluster, such as 'a'"),
        (pa.array([None, None]), "2 of 2 clips have no cluster, such as 'a', 'b'"),
    ],
)
def test_parquet_values_that_name_no_cluster_are_refused(tmp_path: Path, clusters: pa.Array, message: str) -> None:
    path = parquet(tmp_path / "c.parquet", {"id": ["a", "b"], "cluster": clusters})
    with pytest.raises(UsageError, match=message):
        read_joined(path, write(tmp_path / "l.csv", {"id": ["a", "b"], "label": ["x", "y"]}))


def test_what_is_guessed_or_left_out_is_told(tmp_path: Path) -> None:
    clusters = write(tmp_path / "c.csv", {"id": list("abcdef"), "cluster": ["0", "0.0", "-1", "1", "1.0", "-1"]})
    labels = write(tmp_path / "l.csv", {"id": list("abcdef"), "label": ["x", "", "NaN", "NA", "y", "x"]})
    found = evaluate_files(clusters, labels)
    assert (found["n"], found["used_clusters"], found["num_labels"]) == (4, 4, 3)
    notes = [note.replace(f"{tmp_path}/", "") for note in found["notes"]]
    assert notes[0] == "l.csv: 1 of 6 rows have 'NaN' as label: read as no label"
    assert notes[1].startswith("l.csv: 1 of 6 rows have 'NA' as label: a label like any other, as it is written")
    assert notes[2].startswith("c.csv: the same number is written in several ways as cluster (0 and 0.0; 1 and 1.0): ")
    assert notes[3].startswith("c.csv: 2 of 6 clips have cluster -1 (")
    assert notes[4] == "2 of 6 clips have no label and are left out, such as 'b', 'c'"
    assert all(f"\nnote: {note}" in format_scores(found) for note in found["notes"])


def test_ids_in_another_unicode_form_are_joined(tmp_path: Path) -> None:
    clusters = write(tmp_path / "c.csv", {"id": ["caf\u00e9", "b"], "cluster": [0, 1]})
    labels = write(tmp_path / "l.csv", {"id": ["b", "cafe\u0301"], "label": ["x", "y"]})
    found = evaluate_files(clusters, labels)
    assert found["n"] == 2
    assert "1 ids of " in found["notes"][0]
    assert "another Unicode form" in found["notes"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has the columns none; expected id and cluster"),
        (b"id,cluster\na\n", "line 2: expected 2 cells, found 1"),
        (b"id,cluster\n\xff,1\n", "line 2: expected UTF-8, found the byte 0xff"),
        (b"PAR1 but no more", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_column(path, "cluster")
    with pytest.raises(UsageError, match="no such file; expected CSV or Parquet with the columns id and label"):
        read_column(tmp_path / "none.csv", "label")


def test_the_labels_come_in_the_order_of_the_clusters(tmp_path: Path) -> None:
    clusters = write(tmp_path / "c.csv", {"id": ["b", "a", "c"], "cluster": [1, 2, 3]})
    labels = write(tmp_path / "l.csv", {"id": ["c", "b", "a"], "label": ["C", "B", "A"]})
    found = read_joined(clusters, labels)
    assert [column.to_pylist() for column in found[:2]] == [["1", "2", "3"], ["B", "A", "C"]]
