"""`import selavi`: quick, with names that tools see, and faults that are exceptions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import selavi
from selavi.errors import UsageError


def run_python(code: str, repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script file in a process of its own."""
    script = folder / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    return subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True)


def test_importing_it_imports_nothing_slow(repository: Path, tmp_path: Path) -> None:
    code = "import sys, selavi; print(*sorted({'torch', 'numpy', 'pyarrow', 'av', 'omegaconf'} & sys.modules.keys()))"
    assert run_python(code, repository, tmp_path).stdout == "\n"


def test_its_names_are_there_and_no_others() -> None:
    assert {"label", "open_run", "train", "evaluate", "export", "assign", "assign_scores"} <= set(selavi.__all__)
    assert set(selavi.__all__) <= set(dir(selavi))
    for name in selavi.__all__:
        assert getattr(selavi, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lable'"):
        selavi.lable  # type: ignore[attr-defined]  # noqa: B018


def test_scores_of_any_model_become_balanced_labels() -> None:
    scores = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    log_probabilities = torch.from_numpy(scores).log_softmax(1)
    for given in (log_probabilities, log_probabilities.numpy()):
        result = selavi.assign_scores(given)
        assert result.converged and result.labels.bincount(minlength=6).max() < 60
    shares = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    uneven = selavi.assign_scores(log_probabilities, np.array(shares))
    assert uneven.labels.bincount().argmax() == 0


def test_faults_are_exceptions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        selavi.open_run(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        selavi.label(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"did you mean heads\.num_clusters"):
        selavi.train("small", {"heads.num_cluster": 3})


@pytest.mark.end_to_end
def test_a_run_in_python(labelled_run: Path, videos: Path, tmp_path: Path) -> None:
    run = selavi.open_run(labelled_run)
    assert run.table().num_rows == 48
    assert run.gallery.exists()
    assert len(run.labels) == 48 and set(run.labels.values()) <= set(range(20))
    first = run.table().slice(0, 1).to_pylist()[0]
    assert run.labels[first["id"]] == first["cluster"]
    assert run.names == {}
    assert run.metrics["chosen"]["n"] == 48
    assert run.verdict.startswith("The labels are") and run.verdict in repr(run) and str(run.gallery) in repr(run)
    new = run.assign([videos / "000.mp4", videos / "001.mp4"], out=tmp_path / "new")
    assert new["id"].to_pylist() == ["000.mp4", "001.mp4"]


@pytest.mark.end_to_end
def test_names_of_clusters_come_with_the_run(labelled_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(labelled_run, folder)
    run = selavi.open_run(folder)
    cluster = run.labels["000.mp4"]
    head = run.table()["head"][0].as_py()
    (tmp_path / "names.csv").write_text(f"head,cluster,id,name\n{head},{cluster},,bells\n")
    assert selavi.export(run, names=tmp_path / "names.csv", map="none", evidence=0).names == {cluster: "bells"}


SCRIPT = """\
import selavi
print("the script runs")
run = selavi.train("small", SETTINGS)
selavi.evaluate(run)
print(run.metrics["chosen"]["n"], "clips")
"""


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_script_of_five_lines_without_a_main_guard(
    repository: Path, videos: Path, quick: dict[str, object], tmp_path: Path, num_workers: int
) -> None:
    """Its scan, its decoding and its loader start processes, and none of them runs the script once more."""
    settings = quick | {
        "data.root": str(videos),
        "data.cache_dir": "cache",
        "data.cache_gb": 0 if num_workers else 1,
        "data.num_workers": num_workers,
        "heads.num_clusters": 4,
        "run_dir": "run",
    }
    ended = run_python(SCRIPT.replace("SETTINGS", repr(settings)), repository, tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "the script runs\n48 clips\n"), ended.stderr
