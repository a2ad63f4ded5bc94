import json
import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.labelling.statistics import ClipStatistics
from selavi.results.labels import LABEL_SCHEMA, read_labels, write_labels
from selavi.runs.folder import RunFolder
from selavi.runs.lifetime import environment, finish_run, owned, start_run
from selavi.runs.manifest import SCHEMA
from selavi.runs.record import read_verdict
from selavi.scores.verdict import Verdict

Tiny = Callable[..., Config]
MANIFEST = SCHEMA.empty_table().replace_schema_metadata({"root": "/media"})


def statistics(num_clips: int, num_heads: int) -> ClipStatistics:
    values = torch.arange(num_clips * num_heads).view(num_clips, num_heads) / 100
    return ClipStatistics(values, values + 1, values + 2, values.masked_fill(values < 0.03, torch.nan))


def test_labels_are_one_row_for_each_clip_and_head(tmp_path: Path) -> None:
    labels = torch.tensor([[3, 1], [0, 2], [1, 1]], dtype=torch.int32)
    path = write_labels(tmp_path, "train", ["a", "b", "c"], labels, vars(statistics(3, 2)))
    assert path == tmp_path / "labels" / "train.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(LABEL_SCHEMA)
    assert table["id"].to_pylist() == ["a", "a", "b", "b", "c", "c"]
    assert table["head"].to_pylist() == [0, 1] * 3
    assert table["cluster"].to_pylist() == [3, 1, 0, 2, 1, 1]
    assert table["confidence"].to_pylist() == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
    assert table["margin"].to_pylist() == pytest.approx([1.0, 1.01, 1.02, 1.03, 1.04, 1.05])
    assert table["entropy"][0].as_py() == pytest.approx(2.0)
    assert table["modality_agreement"].to_pylist()[:3] == [None, None, None]
    assert table["modality_agreement"].to_pylist()[3:] == pytest.approx([0.03, 0.04, 0.05])


def test_labels_are_written_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"clip {number}" for number in range(7)]
    clusters = torch.arange(14, dtype=torch.int32).view(7, 2)
    whole = pq.read_table(write_labels(tmp_path, "train", ids, clusters, vars(statistics(7, 2))))
    monkeypatch.setattr("selavi.results.labels._ROWS_AT_ONCE", 4)
    path = write_labels(tmp_path, "train", ids, clusters, vars(statistics(7, 2)))
    assert pq.ParquetFile(path).num_row_groups == 4
    assert pq.read_table(path).equals(whole)
    none = write_labels(tmp_path, "test", [], clusters[:0], vars(statistics(0, 2)))
    assert pq.read_table(none).schema.equals(LABEL_SCHEMA) and not len(pq.read_table(none))


def test_labels_that_are_read_while_others_are_written_are_of_one_labelling(tmp_path: Path) -> None:
    """An export reads them while a training writes them: it sees the old ones or the new ones, never both."""
    ids = [f"clip {number}" for number in range(500)]

    def write(cluster: int) -> None:
        write_labels(tmp_path, "train", ids, torch.full((500, 2), cluster), vars(statistics(500, 2)))

    write(0)
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: [write(number) for number in range(40)])
        num_read = 0
        while not writing.done() or num_read < 3:
            clusters = read_labels(tmp_path, "train").clusters
            assert clusters.shape == (500, 2) and len(np.unique(clusters)) == 1
            num_read += 1
        writing.result()


def test_a_run_folder_says_where_it_came_from(tiny: Tiny, tiny_yaml: Path) -> None:
    config = tiny("seed=3")
    start_run(config, tiny_yaml, MANIFEST)
    folder = Path(config.run_dir)
    assert (folder / "config.yaml").read_text() == tiny_yaml.read_text()
    assert load_config(folder / "config.resolved.yaml") == config
    assert pq.read_table(folder / "manifest.parquet").schema.metadata[b"root"] == b"/media"
    env = json.loads((folder / "env.json").read_text())
    assert env["versions"]["torch"] == torch.__version__ or env["versions"]["torch"] in torch.__version__
    assert {"command", "python", "platform", "cores", "git_commit", "device"} <= set(env)


def test_one_process_trains_in_a_folder_and_others_are_told_which(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    own = (
        rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 2\d\d\d-.*, is training in {folder}; wait"
    )
    with owned(folder):
        with pytest.raises(UsageError, match=own), owned(folder):
            pass
        with owned(folder, is_first=False):  # trains together with the first
            pass
        with pytest.raises(UsageError, match=own), owned(folder):
            pass
    with owned(folder):
        pass


def test_a_folder_in_which_nothing_was_written_is_removed_with_those_made_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with pytest.raises(UsageError, match="no clips"), owned(folder):
        raise UsageError("no clips")
    assert list(tmp_path.iterdir()) == []
    with owned(folder):
        (folder / "status.json").write_text("{}")
    with pytest.raises(UsageError, match="no clips"), owned(folder):
        raise UsageError("no clips")
    assert (folder / "status.json").exists()
    with pytest.raises(UsageError, match="is a file; give a folder"), owned(folder / "status.json"):
        pass


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    left = [path.with_name(f".{path.name}.{pid}.tmp") for path in folder.written_in_training() for pid in (1, 22)]
    kept = [tmp_path / ".clusters.csv.1.tmp", tmp_path / "status.json", tmp_path / ".status.json.tmp"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with owned(tmp_path):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in kept)


def test_a_resumed_run_keeps_what_was_logged(tiny: Tiny) -> None:
    config = tiny()
    folder = Path(config.run_dir)
    for text in ("first", "second", "third"):
        start_run(config, None, MANIFEST)
        (folder / "metrics.csv").write_text(text)
    assert (folder / "metrics.1.csv").read_text() == "first"
    assert (folder / "metrics.2.csv").read_text() == "second"
    assert (folder / "metrics.csv").read_text() == "third"


VERDICT = Verdict("not settled", ("They are not.", "Train longer."))


def test_the_status_says_what_training_came_to(tiny: Tiny) -> None:
    config = tiny()
    assert read_verdict(Path(config.run_dir)) == ""
    finish_run(config, 61.26, VERDICT)
    status = json.loads((Path(config.run_dir) / "status.json").read_text())
    assert (status["state"], status["epochs"], status["seconds"]) == ("finished", 2, 61.3)
    assert status["labels"] == "not settled" and read_verdict(Path(config.run_dir)) == "They are not. Train longer."
    (Path(config.run_dir) / "status.json").write_text('{"state": "finished"}')  # of an earlier version
    assert read_verdict(Path(config.run_dir)) == ""
    (Path(config.run_dir) / "status.json").write_text("{")
    with pytest.raises(UsageError, match=r"status\.json.*damaged"):
        read_verdict(Path(config.run_dir))


def test_the_environment_is_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
