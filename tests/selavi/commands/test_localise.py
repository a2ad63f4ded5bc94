"""`selavi localise`: maps beside boxes and priors, what is left out is told, and faults say what to change."""

import json
import shutil
from pathlib import Path

import pytest

from selavi.commands.localise import OWN, LocaliseArguments, localise, verdict
from selavi.errors import UsageError
from selavi.results.cluster_table import read_labels
from selavi.scores.boxes import Localisation
from tools import localise as tool

PRIORS = ["another clip's map", "whole picture", "centre disc", "frame difference"]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def boxes_of(run: Path, lines: list[str], tmp_path: Path) -> Path:
    """A table with these lines, in which {0}, {1} ... are clips of the run."""
    ids = sorted(set(read_labels(run, "train")["id"].to_pylist()))
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["id,time_s,x,y,w,h", *(line.format(*ids) for line in lines)]) + "\n")
    return path


def test_the_whole_picture_is_pointed_at_by_everything(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [f"{{{number}}},1.0,0,0,1,1" for number in range(5)]
    table = boxes_of(run, [*whole, "{0},0.2,0,0,1,1", "nobody.mp4,0,0,0,1,1", "{5},0,2,2,1,1"], tmp_path)
    assert tool.main([str(run), "--annotations", str(table), "--head", "1"]) == 0
    printed, told = capsys.readouterr()
    record = json.loads((run / "localise" / "train-h1.json").read_text())
    assert list(record["figures"]) == [OWN, *PRIORS]
    for figures in record["figures"].values():
        assert figures["num_pictures"] == 6
        assert figures["pointing"] == figures["mean_iou"] == figures["success"] == 1
    assert "no difference beyond chance" in printed and "6 annotated pictures" in printed
    assert "1 of 8 annotated pictures are of no labelled clip" in told
    assert "1 boxes have no area in their picture" in told and "1 have nothing marked" in told


def test_a_map_is_scored_at_its_own_clip(run: Path, tmp_path: Path) -> None:
    lines = [f"{{{number}}},1.0,0.5,0.5,0.3,0.4" for number in range(4)]
    figures = localise(LocaliseArguments(run, boxes_of(run, lines, tmp_path))).figures
    area = figures["whole picture"].pixel_precision
    assert area == pytest.approx(0.3 * 0.4, abs=0.02)
    assert all(0 <= row.mean_iou < 1 and row.num_pictures == 4 for row in figures.values())


def test_clips_that_are_not_there_are_an_error_that_names_some(run: Path, tmp_path: Path) -> None:
    table = boxes_of(run, ["nobody.mp4,0,0,0,1,1"], tmp_path)
    with pytest.raises(UsageError, match=r"'nobody\.mp4', and none is among the \d+ labelled ones"):
        localise(LocaliseArguments(run, table))


@pytest.mark.parametrize(
    ("own", "prior", "said"),
    [(0.9, 0.5, "better than anything"), (0.2, 0.6, "do not use the maps"), (0.5, 0.52, "beyond chance")],
)
def test_the_verdict_compares_with_the_best_prior(own: float, prior: float, said: str) -> None:
    def row(pointing: float) -> Localisation:
        return Localisation(100, 0.3, 0.3, 0.3, pointing, 0.3)

    text = verdict({OWN: row(own), "centre disc": row(prior), "whole picture": row(0.1)})
    assert said in text and "centre disc" in text
