import json
from pathlib import Path

import pytest

from selavi.commands.compare import COMMAND
from tools import compare


def test_features_of_a_run_are_clustered(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--runs", str(finished_run), "--splits", "test", "--seeds", "0", "1", "--out", str(tmp_path)]
    assert compare.main(command) == 0
    told = capsys.readouterr()
    assert "kmeans on untrained video+audio" in told.out and str(tmp_path / "compare.json") in told.err
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    kinds = ("video", "audio", "video+audio", "untrained video+audio")
    assert [(row["name"], row["seed"]) for row in rows] == [(f"kmeans on {kind}", s) for kind in kinds for s in (0, 1)]
    assert {(row["n"], row["used_clusters"]) for row in rows} == {(16, 8)}
    assert compare.main(command) == 0
    assert json.loads((tmp_path / "compare.json").read_text())["rows"] == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "nowhere"], "nowhere is not a run folder"),
        (["--arrays", "features.npy"], "arrays need --ids"),
        (["--recipes", "xdcc", "data.root=/x"], "no recipe xdcc; there are sela-video"),
        (["--recipes", "xdc", "data.roots=/x"], "unknown setting data.roots"),
        (["--runs", "a", "--scale", "whiten"], "features are scaled by"),
    ],
)
def test_wrong_requests_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_may_stand_behind_a_list_of_words() -> None:
    words = ["--recipes", "xdc", "selavi", "data.root=/x", "--seeds", "0", "1", "heads.num_clusters=9"]
    arguments = COMMAND.arguments_of(words)
    assert (arguments.recipes, arguments.seeds) == (["xdc", "selavi"], [0, 1])
    assert arguments.settings == ["data.root=/x", "heads.num_clusters=9"]
