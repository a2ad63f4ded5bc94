import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from selavi.results.labels import read_labels
from selavi.runs.checkpoint import REFITTED
from selavi.runs.record import load_run, read_verdict
from tools import cluster_eval, refit, train


@pytest.fixture(scope="module")
def source(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clusters somebody has named."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("refit") / "run")
    (run / "names.csv").write_text("cluster,name\n0,dogs\n")
    return run


@pytest.fixture(scope="module")
def refitted(source: Path) -> Path:
    before = contents(source)
    assert refit.main([str(source), "-k", "5"]) == 0
    assert contents(source) == before
    return source.with_name("run-k5")


def contents(folder: Path) -> dict[str, bytes]:
    """All that a user could lose; a lock says who held it last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_with_another_number_of_clusters(source: Path, refitted: Path) -> None:
    old, new = load_run(source), load_run(refitted)
    assert (new.config.heads.num_clusters, old.config.heads.num_clusters) == (5, 8)
    assert new.checkpoint[REFITTED] == str(source)
    assert new.manifest.equals(old.manifest)
    clusters = read_labels(refitted, "train").clusters
    assert clusters.shape == (32, 2)
    assert np.array_equal(clusters, new.checkpoint["label_bank"]["labels"].numpy())
    assert clusters.max() == 4
    assert not (refitted / "names.csv").exists()
    assert read_verdict(refitted).startswith(
        f"Refitted: 2 new heads of 5 clusters on the encoders of {source}. They agree"
    )


def test_other_commands_read_it(refitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster_eval.main([str(refitted), "--split", "test", "--report"]) == 0
    assert "training: Refitted: " in capsys.readouterr().out


def test_no_training_goes_on_from_it(source: Path, refitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(refitted)
    assert train.main([str(refitted), "--more", "1"]) == 2
    assert f"has new heads on the encoders of {source}, and no training goes on with them" in capsys.readouterr().err
    assert contents(refitted) == before


def test_what_is_there_stays(source: Path, refitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(refitted)
    assert refit.main([str(source), "-k", "5"]) == 2
    assert "exists and is not empty; name another folder (--out FOLDER), or remove it" in capsys.readouterr().err
    assert contents(refitted) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-k", "1"], "--clusters must be at least 2, got 1"),
        (["-k", "33"], "the run has 32 training clips, so at most as many clusters"),
    ],
)
def test_clusters_that_cannot_be(
    source: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refit.main([str(source), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_same_seed_gives_the_same_labels(source: Path, refitted: Path, tmp_path: Path) -> None:
    assert refit.main([str(source), "-k", "5", "--out", str(tmp_path / "again")]) == 0
    again = (tmp_path / "again" / "labels" / "train.parquet").read_bytes()
    assert again == (refitted / "labels" / "train.parquet").read_bytes()


def test_clips_that_cannot_be_decoded_are_counted_and_too_many_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were labelled in silence, by nothing."""
    run, media = Path(shutil.copytree(source, tmp_path / "run")), tmp_path / "media"
    shutil.copytree(load_run(source).config.data.root, media)
    bad = load_run(source).manifest.filter(pc.field("split") == "train")["path"][0].as_py()
    (media / bad).write_bytes((media / bad).read_bytes()[:1000])
    words = [str(run), f"data.root={media}", "--out", str(tmp_path / "new")]
    settings = run / "config.resolved.yaml"
    text = settings.read_text()
    settings.write_text(re.sub("max_bad_fraction: .*", "max_bad_fraction: 0.01", text))
    assert refit.main(words) == 3
    said = f"1 of 32 clips could not be decoded so far (data.max_bad_fraction=0.01); the first: {bad}: "
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    settings.write_text(re.sub("max_bad_fraction: .*", "max_bad_fraction: 0.1", text))
    assert refit.main(words) == 0
    assert (tmp_path / "new" / "bad_clips.csv").read_text().startswith(f"{bad},")
    assert "1 of 32 clips could not be decoded" in read_verdict(tmp_path / "new")
