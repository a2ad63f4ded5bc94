import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selavi.config import load_config
from selavi.errors import UsageError
from selavi.evaluation import compare as cp
from selavi.inference.encode import ClipFeatures

FIGURES = {name: 0.5 for name in cp.FIGURES}


class Tools:
    """Stands for tools/train.py and tools/cluster_eval.py: leaves behind the files that they would."""

    def __init__(self, fail_at: int = -1) -> None:
        self.trained: list[list[str]] = []
        self.measured: list[list[str]] = []
        self.fail_at = fail_at

    def train(self, arguments: list[str]) -> int:
        if len(self.trained) == self.fail_at:
            self.fail_at = -1
            return 75
        self.trained.append(arguments)
        config = load_config(Path(arguments[1]), arguments[2:])
        folder = Path(config.run_dir)
        folder.mkdir(parents=True)
        (folder / "status.json").write_text("{}")
        (folder / "heads.txt").write_text(str(config.num_label_heads))
        return 0

    def measure(self, arguments: list[str]) -> int:
        self.measured.append(arguments)
        folder, split = Path(arguments[0]), arguments[2]
        num_heads = int((folder / "heads.txt").read_text())
        heads = [{**FIGURES, "nmi": (head + 1) / 10} for head in range(num_heads)]
        result = {"labelled": True, "heads": heads, "chosen": {"head": 1, **heads[1]}, "oracle": heads[-1]}
        (folder / "eval").mkdir(exist_ok=True)
        (folder / "eval" / f"metrics_{split}.json").write_text(json.dumps(result))
        return 0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("heads: {num_heads: 2, num_clusters: 5}\nlabelling: {head_groups: 1}\n")
    return path


def run(tools: Tools, names: list[str], seeds: list[int], config: Path, *settings: str) -> list[cp.Row]:
    folder = config.parent / "out"
    return cp.train_recipes(names, seeds, config, settings, ["train", "test"], folder, tools.train, tools.measure)


def test_every_recipe_is_a_configuration() -> None:
    for name, settings in cp.RECIPES.items():
        config = load_config(None, list(settings))
        assert (config.labelling.method == "kmeans") == (
            name in ("xdc", "sdc", "cdc", "owens") or "deepcluster" in name
        )
        assert (len(config.label_sets) == 2) == (name in ("sela-both", "swapped", "sdc", "xdc"))


def test_recipes_are_trained_seed_by_seed_with_one_budget(config: Path) -> None:
    tools = Tools()
    rows = run(tools, ["xdc", "selavi"], [0, 1], config, "trainer.max_epochs=3")
    assert [(row["name"], row["seed"], row["split"]) for row in rows] == [
        (name, seed, split) for name in ("xdc", "selavi") for seed in (0, 1) for split in ("train", "test")
    ]
    settings = [load_config(config, arguments[2:]) for arguments in tools.trained]
    assert [c.seed for c in settings] == [0, 0, 1, 1]
    assert {c.trainer.max_epochs for c in settings} == {3}
    assert [c.labelling.source for c in settings] == ["cross", "joint"] * 2
    assert {c.resume for c in settings} == {"auto"}
    assert len({c.run_dir for c in settings}) == 4
    xdc, selavi = rows[0], rows[4]
    assert xdc["nmi"] == selavi["nmi"] == 0.2  # of the chosen head
    assert (xdc["oracle_nmi"], selavi["oracle_nmi"]) == (0.4, 0.2)
    assert (xdc["video_nmi"], xdc["audio_nmi"]) == (pytest.approx(0.15), pytest.approx(0.35))
    assert "video_nmi" not in selavi


def test_what_is_finished_is_not_run_again(config: Path) -> None:
    tools = Tools(fail_at=3)
    with pytest.raises(cp.RecipeFailed, match=r"selavi with seed 1 ended early .* the same command goes on") as failed:
        run(tools, ["xdc", "selavi"], [0, 1], config)
    assert failed.value.exit_code == 75
    table = json.loads((config.parent / "out" / "compare.json").read_text())
    assert len(table["rows"]) == 6  # a table still filling
    rows = run(tools, ["xdc", "selavi"], [0, 1], config)
    assert len(rows) == 8
    assert len(tools.trained) == 4 and len(tools.measured) == 8
    run(tools, ["xdc"], [0], config, "data.cache_dir=elsewhere", "trainer.max_epochs=200")  # the default: nothing new
    assert len(tools.trained) == 4
    run(tools, ["xdc"], [0], config, "trainer.max_epochs=7")  # other settings are another run
    assert len(tools.trained) == 5


def test_unknown_recipes_and_splits_without_labels_are_refused(config: Path) -> None:
    with pytest.raises(UsageError, match="no recipe selaviii; there are sela-video, "):
        run(Tools(), ["selaviii"], [0], config)
    with pytest.raises(UsageError, match="each recipe and each seed once"):
        run(Tools(), ["xdc"], [0, 0], config)
    tools = Tools()
    tools.measure = lambda arguments: _unlabelled(Path(arguments[0]), arguments[2])  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="no clip of split train has a label"):
        run(tools, ["xdc"], [0], config)


def _unlabelled(folder: Path, split: str) -> int:
    (folder / "eval").mkdir()
    (folder / "eval" / f"metrics_{split}.json").write_text(json.dumps({"labelled": False}))
    return 0


def row(name: str, seed: int, nmi: float, split: str = "test") -> cp.Row:
    return {"name": name, "seed": seed, "split": split, **FIGURES, "nmi": nmi}


def test_the_summary_is_over_the_seeds(tmp_path: Path) -> None:
    rows = [row("a", 0, 0.2), row("b", 0, 0.9), row("a", 1, 0.4), row("a", 0, 0.7, "train")]
    first, second, third = cp.summarise(rows)
    assert (first["name"], first["split"], first["seeds"]) == ("a", "test", [0, 1])
    expected = {"mean": pytest.approx(0.3), "sd": pytest.approx(np.std([0.2, 0.4], ddof=1)), "low": 0.2, "high": 0.4}
    assert first["nmi"] == expected
    assert second["nmi"] == {"mean": 0.9, "sd": None, "low": 0.9, "high": 0.9}
    assert third["split"] == "train"
    text = cp.format_summary(rows)
    assert "0.300 +- 0.141" in text and "0.900" in text
    json_path, csv_path, png_path = cp.write_comparison(rows, tmp_path)
    assert json.loads(json_path.read_text())["rows"] == rows
    with csv_path.open(newline="") as file:
        assert [float(line["nmi"]) for line in csv.DictReader(file)] == [0.2, 0.9, 0.4, 0.7]
    assert png_path.read_bytes().startswith(b"\x89PNG")
    drawn = cp.plot_summary(rows, "title").svg()
    assert "0.300" in drawn and "lowest and highest seed" in drawn


# ---- given features ----


def arrays(tmp_path: Path, num: int = 60) -> tuple[Path, Path, Path]:
    """Features that tell the labels, ids, and labels in another order."""
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 3
    np.save(tmp_path / "clip.npy", np.eye(3)[labels] * 5 + rng.normal(0, 0.1, (num, 3)))
    ids = [f"id{n}" for n in range(num)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    order = rng.permutation(num)
    table = pa.table({"id": [ids[n] for n in order], "label": [f"class {labels[n]}" for n in order]})
    pq.write_table(table, tmp_path / "labels.parquet")
    return tmp_path / "clip.npy", tmp_path / "ids.txt", tmp_path / "labels.parquet"


def test_arrays_are_joined_by_id_and_clustered(tmp_path: Path) -> None:
    clip, ids, labels = arrays(tmp_path)
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).normal(size=(60, 4)))
    protocol = cp.ClusteringPlan(["kmeans", "agglomerative"], [0, 1], "none")
    rows = cp.cluster_arrays([clip, tmp_path / "noise.npy"], ids, labels, protocol)
    nmi = {(row["name"], row["seed"]): row["nmi"] for row in rows}
    assert set(nmi) == {
        (f"{method} on {kind}", seed)
        for method in ("kmeans", "agglomerative")
        for kind in ("clip", "noise", "clip+noise")
        for seed in ((0,) if method == "agglomerative" else (0, 1))
    }
    assert nmi["kmeans on clip", 0] == nmi["agglomerative on clip", 0] == pytest.approx(1.0)
    assert nmi["kmeans on noise", 1] < 0.3
    assert {row["used_clusters"] for row in rows} == {3}  # as many as labels


def test_clips_without_a_label_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, ids, labels = arrays(tmp_path)
    table = pq.read_table(labels).to_pylist()
    table[0]["label"] = None
    pq.write_table(pa.Table.from_pylist([*table, {"id": "another", "label": "class 0"}]), labels)
    [row] = cp.cluster_arrays([clip], ids, labels, cp.ClusteringPlan(["kmeans"], [0], "l2", 4))
    assert (row["n"], row["used_clusters"]) == (59, 4)
    told = capsys.readouterr().err
    assert "1 of 60 ids have no label and are left out" in told and "1 of 61 rows of " in told


def test_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    clip, ids, labels = arrays(tmp_path)
    protocol = cp.ClusteringPlan(["kmeans"], [0], "l2")

    def refused(message: str, *, array: Path = clip, rows: Path | None = ids, told: Path | None = labels) -> None:
        with pytest.raises(UsageError, match=message):
            cp.cluster_arrays([array], rows, told, protocol)

    refused("arrays need --ids", rows=None)
    few, twice, other = (tmp_path / name for name in ("few.txt", "twice.txt", "other.txt"))
    few.write_text("id0\nid1\n")
    twice.write_text("id0\nid1\nid0\n")
    other.write_text("\n".join([f"id{n}" for n in range(58)] + ["x", "y"]))
    refused("has 60 rows, but there are 2 ids", rows=few)
    refused("1 of the 3 ids in .* more than once", rows=twice)
    refused("2 of 60 ids have no row among the 60 of .* such as 'x'", rows=other)
    refused("cannot read the ids", rows=tmp_path / "none.txt")
    pq.write_table(pa.table({"id": ["id0", "id0"], "label": ["a", "b"]}), tmp_path / "doubled.parquet")
    pq.write_table(pa.table({"clip": ["id0"]}), tmp_path / "columns.parquet")
    refused("1 ids occur more than once", told=tmp_path / "doubled.parquet")
    refused("has the columns clip; expected id and label", told=tmp_path / "columns.parquet")
    refused("is a NumPy array; expected a table", told=clip)
    np.save(tmp_path / "flat.npy", np.zeros(60))
    np.save(tmp_path / "objects.npy", np.array([{}] * 60), allow_pickle=True)
    refused(r"one array \(N, D\) of numbers in .*flat.npy, found float64 \(60,\)", array=tmp_path / "flat.npy")
    refused("holds Python objects, which are never loaded", array=tmp_path / "objects.npy")
    refused("is not an array that numpy.save wrote", array=ids)
    np.save(tmp_path / "nan.npy", np.full((60, 2), np.nan))
    refused("60 of 60 clips are not finite", array=tmp_path / "nan.npy")
    with pytest.raises(UsageError, match="clip: expected 1 to 60 clusters for 60 clips, got 61"):
        cp.cluster_arrays([clip], ids, labels, cp.ClusteringPlan(["kmeans"], [0], "l2", 61))


def test_a_protocol_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no method dbscan; there are kmeans, spectral"):
        cp.ClusteringPlan(["dbscan"], [0], "l2")
    with pytest.raises(UsageError, match=r"features are scaled by standardise\+l2, .* got whiten"):
        cp.ClusteringPlan(["kmeans"], [0], "whiten")
    with pytest.raises(UsageError, match="must be at least 1, got -1 and 3"):
        cp.ClusteringPlan(["kmeans"], [0], "l2", -1)


def test_features_of_a_run_are_taken_where_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = ClipFeatures(
        {"video": torch.randn(5, 3, generator=generator), "audio": torch.randn(5, 2, generator=generator)},
        {"video": torch.tensor([1, 1, 1, 0, 1]).bool(), "audio": torch.tensor([1, 0, 1, 0, 1]).bool()},
        {3: "undecodable"},
    )
    labels = ["a", "b", None, "d", "e"]
    kinds = cp.features_of_clips(clips, labels, "l2")
    assert {name: (found.shape, told) for name, (found, told) in kinds.items()} == {
        "video": ((3, 3), ["a", "b", "e"]),
        "audio": ((2, 2), ["a", "e"]),
        "video+audio": ((3, 5), ["a", "b", "e"]),
    }
    both = kinds["video+audio"][0]
    assert (both[1, 3:] == 0).all()  # the second clip has no sound
    np.testing.assert_allclose(np.linalg.norm(both[:, :3], axis=1), 1, atol=1e-6)
    assert list(cp.kinds_of_run(clips, clips, labels, "l2")) == [*kinds, "untrained video+audio"]
    with pytest.raises(UsageError, match="none of the clips that have video has a label"):
        cp.features_of_clips(clips, [None] * 5, "l2")


def test_runs_are_clustered_split_by_split() -> None:
    asked = []

    def encode(run: Path, split: str, num_views: int, scaling: str) -> tuple[cp.Kinds, int]:
        asked.append((run.name, split, num_views, scaling))
        return {"video": (np.repeat(np.eye(3), 4, 0), ["a"] * 4 + ["b"] * 4 + ["c"] * 4)}, 3

    protocol = cp.ClusteringPlan(["kmeans"], [0], "l2", num_views=2)
    rows = cp.cluster_runs([Path("runs/a"), Path("runs/b")], ["train", "test"], protocol, encode)
    assert asked == [(run, split, 2, "l2") for run in ("a", "b") for split in ("train", "test")]
    assert [row["name"] for row in rows] == ["kmeans on video of a"] * 2 + ["kmeans on video of b"] * 2
    assert {row["nmi"] for row in rows} == {1.0}
    assert [row["name"] for row in cp.cluster_runs([Path("a")], ["test"], protocol, encode)] == ["kmeans on video"]


def test_arrays_are_not_read_whole(tmp_path: Path) -> None:
    """A memory-mapped float16 array needs one float32 copy, and what K-means takes beside it, not three of float64."""
    script = """
import resource, sys
import sklearn.cluster
from pathlib import Path
from selavi.evaluation import compare as cp

folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = cp.ClusteringPlan(["kmeans"], [0], "standardise")
cp.cluster_arrays([folder / "x.npy"], folder / "ids.txt", folder / "l.csv", plan)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
assert "torch" not in sys.modules
"""
    num, width = 24_000, 512
    values = np.random.default_rng(0).normal(size=(num, width)).astype(np.float16)
    values[:, 0] += np.arange(num) % 2 * 100
    np.save(tmp_path / "x.npy", values)
    ids = [f"{n:05}" for n in range(num)]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    (tmp_path / "l.csv").write_text("id,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(ids)))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    megabytes = num * width * 4 / 2**20
    assert float(done.stdout) < 5 * megabytes  # the float64 copies of old alone were 4 of these
