"""What comes after the training of a run on vectors: its page, its hand-overs, labels of new vectors, comparisons."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.id_tables import read_ids
from tools import assign, cluster_eval, compare, export_clusters, train

NUM_CLIPS, NUM_CLASSES, D = 240, 6, 8
SMALL = [
    "heads.num_heads=2",
    "heads.num_clusters=6",
    "heads.kind=linear",
    "optim.batch_size=32",
    "optim.lr=0.2",
    "optim.lr_clips=32",
    "optim.warmup_epochs=0",
    "labelling.marginal=uniform",
    "labelling.num_labellings=4",
    "trainer.max_epochs=4",
    "trainer.accelerator=cpu",
    "data.num_workers=0",
]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spaces of vectors, ids, labels, and a table of captions.  Nobody writes here."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    classes = np.arange(NUM_CLIPS) % NUM_CLASSES
    for name in ("one", "two"):
        centres = 2 * rng.normal(size=(NUM_CLASSES, D))
        np.save(folder / f"{name}.npy", (centres[classes] + rng.normal(size=(NUM_CLIPS, D))).astype(np.float32))
    splits = ["test" if number % 5 == 4 else "train" for number in range(NUM_CLIPS)]
    ids = [
        f"{split}/class{label}/{number:03}" for number, (split, label) in enumerate(zip(splits, classes, strict=True))
    ]
    (folder / "ids.txt").write_text("\n".join(ids))
    (folder / "labels.csv").write_text("id,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in ids))
    rows = [f"{name},words of {name},https://example.org/{number}" for number, name in enumerate(ids)]
    (folder / "table.csv").write_text("id,caption,url\n" + "\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on both, measured on its test clips."""
    folder = tmp_path_factory.mktemp("vectors") / "run"
    files = [f"{name}.file={arrays / name}.npy" for name in ("one", "two")]
    files += [f"{name}.ids={arrays}/ids.txt" for name in ("one", "two")]
    words = ["modalities={one: features, two: features}", *files, *SMALL, f"data.cache_dir={arrays}/cache"]
    assert train.main([*words, f"run_dir={folder}"]) == 0
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    return folder


def data_of(page: Path, name: str) -> Any:
    """The JSON of a data file: what stands between the first comma, or parenthesis, and the last parenthesis."""
    text = (page / "data" / name).read_text()
    return json.loads(text[text.index("{") : text.rindex(")")])


def test_the_page_shows_ids_and_no_pictures(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export_clusters.main([str(run), "--map", "pca"]) == 0
    said = capfd.readouterr().err
    assert "thumbnails: none, for there are no recordings" in said
    assert "nothing glows" not in said and "moved" not in said
    index = data_of(run / "gallery", "index.js")
    assert index["words"] and index["mediaWarning"] is None and index["hasMap"] and not index["columns"]
    first = index["heads"][0]["clusters"][0]
    assert len(first["words"]) == 3 and all(text.startswith("train/class") for text in first["words"])
    assert not list((run / "gallery").rglob("*.jpg"))
    members = data_of(run / "gallery", f"h{index['chosenHead']}/c0.js")
    assert not any(members["thumb"]) and not any(members["media"])


def test_the_page_shows_and_searches_columns_of_a_table(run: Path, arrays: Path) -> None:
    words = ["--table", str(arrays / "table.csv"), "--columns", "caption", "url", "--map", "pca"]
    assert export_clusters.main([str(run), *words]) == 0
    index = data_of(run / "gallery", "index.js")
    assert index["columns"] == ["caption", "url"]
    assert index["heads"][0]["clusters"][0]["words"][0].startswith("words of train/")
    for name in (f"h{index['chosenHead']}/c0.js", "ids-0.js"):
        part = data_of(run / "gallery", name)
        captions = [caption for caption, _ in part["texts"]]
        assert captions == [f"words of {clip}" for clip in part["id"]]
    points = data_of(run / "gallery", "map.js")
    assert [caption for caption, _ in points["texts"]] == [f"words of {clip}" for clip in points["ids"]]


def test_hand_overs_without_media(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export_clusters.main([str(run), "--to", "spotlight", "embedding-atlas", "features"]) == 0
    for name in ("spotlight", "embedding-atlas", "features"):
        table = pq.read_table(run / "handover" / name / "clips.parquet")
        assert len(table) == 192 and "media" not in table.column_names
    assert np.load(run / "handover" / "features" / "one.npy").shape == (192, D)
    assert "media=Video" not in (run / "handover" / "README.txt").read_text()
    capfd.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "cvat"], "it has no recordings, which that tool opens; without any, there are spotlight"),
        (["--media", "copy"], "it has no recordings: leave it out"),
        (["--columns", "caption"], "--table FILE and --columns NAME"),
    ],
)
def test_exports_that_need_media_are_refused(
    run: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert export_clusters.main([str(run), *words]) == 2
    assert message in capfd.readouterr().err


def clusters_of(folder: Path, split: str, head: int) -> dict[str, int]:
    """The clusters that a measurement wrote of a split, by id."""
    table = pq.read_table(folder / "labels" / f"{split}.parquet")
    kept = table.filter(pa.compute.equal(table["head"], head))
    return dict(zip(kept["id"].to_pylist(), kept["cluster"].to_pylist(), strict=True))


def test_new_vectors_get_the_labels_that_a_measurement_gives(run: Path, arrays: Path, tmp_path: Path) -> None:
    """In other order, in shards of which one is there already, and named by hand."""
    ids = read_ids(arrays / "ids.txt")["id"].to_pylist()
    some = [number for number, name in enumerate(ids) if name.startswith("test/")][::-1]
    (tmp_path / "new.txt").write_text("\n".join(ids[number] for number in some))
    for name in ("one", "two"):
        np.save(tmp_path / f"new_{name}.npy", np.load(arrays / f"{name}.npy")[some])
    words = [str(run), "--file", f"one={tmp_path}/new_one.npy", "--file", f"two={tmp_path}/new_two.npy"]
    words += ["--ids", f"one={tmp_path}/new.txt", f"two={tmp_path}/new.txt", "--shard-clips", "10"]
    out = tmp_path / "out"
    assert assign.main([*words, "--out", str(out), "--task", "0/2"]) == 0
    assert not (out / "assignments.parquet").exists()
    assert assign.main([*words, "--out", str(out), "--task", "1/2"]) == 0
    table = pq.read_table(out / "assignments.parquet")
    head = table["head"][0].as_py()
    assert dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True)) == clusters_of(
        run, "test", head
    )
    np.save(tmp_path / "new_one.npy", np.load(tmp_path / "new_one.npy") + 1)
    assert assign.main([*words, "--out", str(out)]) == 2  # another file: not the list that was begun


def test_one_modality_may_judge_alone_by_row_numbers(
    run: Path, arrays: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--file", f"one={arrays}/one.npy", "--modalities", "one", "--out", str(tmp_path / "out")]
    assert assign.main(words) == 0
    table = pq.read_table(tmp_path / "out" / "assignments.parquet")
    assert set(table["id"].to_pylist()) == {str(number) for number in range(NUM_CLIPS)}
    assert "the numbers of its rows are taken, 0 to 239" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file", "one={}/one.npy"], "expected --file two=FILE: the run judges by vectors two"),
        (["--file", "three={}/one.npy"], "with a modality of vectors of the run: one, two"),
        (["--file", "one={}/nowhere.npy"], "nowhere.npy is no file"),
        (["--file", "one={}/wide.npy", "two={}/two.npy"], "has 9 numbers a vector, but one.num_dims=8"),
        (
            ["--file", "one={}/one.npy", "two={}/two.npy", "--ids", "one={}/few.txt"],
            "has 240 rows, but there are 2 ids",
        ),
        (["{}"], "expected --file NAME=FILE with vectors to label"),
    ],
)
def test_new_vectors_that_do_not_fit_are_refused(
    run: Path, arrays: Path, tmp_path: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(arrays / "wide.npy", np.ones((4, 9)))
    (arrays / "few.txt").write_text("a\nb")
    command = [str(run), *(word.format(arrays) for word in words), "--out", str(tmp_path / "out")]
    assert assign.main(command) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out" / "parts").exists()


@pytest.mark.slow
def test_arrays_are_compared_as_modalities(arrays: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--arrays", f"{arrays}/one.npy", f"{arrays}/two.npy", "--ids", f"{arrays}/ids.txt"]
    words += ["--labels", f"{arrays}/labels.csv", "--learn", "cross", "alone", "--seeds", "0", "--out", str(tmp_path)]
    words += [*(word for word in SMALL if not word.startswith("heads.num_clusters")), "features.layers=[8]"]
    words += [f"data.cache_dir={arrays}/cache"]
    assert compare.main(words) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "compare.json").read_text())["rows"]}
    learned = ["cross", "one alone", "two alone"]
    expected = ["kmeans on one", "kmeans on two", "kmeans on one+two"]
    expected += [row for name in learned for row in (name, f"kmeans on the features of {name}")]
    assert set(rows) == set(expected)
    assert all(row["n"] == NUM_CLIPS and row["nmi_low"] <= row["nmi_high"] for row in rows.values())
    assert all(row["nmi"] <= rows[name]["oracle_nmi"] for name, row in rows.items() if name in learned)
    capfd.readouterr()
    assert compare.main(words) == 0  # nothing is trained again
    assert "epochs, into" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arrays", "a.npy", "--learn", "best"], "--learn best: expected some of joint, concat, own, cross, alone"),
        (["--arrays", "a.npy", "--learn", "cross"], "need two arrays"),
        (["--runs", "run", "--learn", "joint"], "--learn belongs to --arrays"),
        (["--arrays", "A b.npy", "a_b.npy", "--learn", "joint"], "too much alike"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(
    tmp_path: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.slow
def test_vectors_are_joined_with_new_media_by_id(tiny_yaml: Path, demo_set: Path, tmp_path: Path) -> None:
    """Each clip has the label that a measurement gives it, also where its vector is missing; its page has captions."""
    clips = sorted(path.relative_to(demo_set).as_posix() for path in demo_set.rglob("*.mp4"))
    known = clips[::2]
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(len(known), D)))
    (tmp_path / "ids.txt").write_text("\n".join(known))
    words = ["--config", str(tiny_yaml), f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1"]
    words += ["modalities={audio: audio, vec: features}", f"vec.file={tmp_path}/v.npy", f"vec.ids={tmp_path}/ids.txt"]
    assert train.main([*words, "labelling.num_labellings=2"]) == 0
    run = tmp_path / "run"
    assert cluster_eval.main([str(run), "--split", "test"]) == 0
    out = tmp_path / "out"
    words = [str(run), str(demo_set), "--file", f"{tmp_path}/v.npy", "--ids", f"vec={tmp_path}/ids.txt"]
    assert assign.main([*words, "--out", str(out), "--workers", "0"]) == 0
    table = pq.read_table(out / "assignments.parquet")
    labels = dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    measured = clusters_of(run, "test", table["head"][0].as_py())
    assert {name: labels[name] for name in measured} == measured
    (tmp_path / "table.csv").write_text("id,caption\n" + "".join(f"{name},of {name}\n" for name in known))
    assert export_clusters.main([str(run), "--table", f"{tmp_path}/table.csv", "--columns", "caption"]) == 0
    index = data_of(run / "gallery", "index.js")
    assert not index["words"] and index["columns"] == ["caption"] and list((run / "gallery").rglob("*.jpg"))
