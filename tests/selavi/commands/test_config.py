from pathlib import Path

import pytest

from selavi.commands.config import COMMAND, ConfigArguments, config
from selavi.commands.main import main
from selavi.config import load_config


def test_every_setting_says_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("heads: {num_clusters: 7, num_heads: 3}\nlabelling: {weights: {audio: 0.5}}\n")
    origins = config(ConfigArguments(file, ["heads.num_heads=4", "data.root=/my #1 set"])).origins
    assert origins["heads.num_heads"] == origins["data.root"] == "command line"
    assert origins["heads.num_clusters"] == origins["labelling.weights"] == "file"
    assert origins["optim.lr"] == "default"


def test_what_is_printed_is_a_configuration_that_comes_to_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["small", "data.root=/a ${b}: {c} #1", "labelling.weights.audio=0.5", "video.crop_fraction=[0.5, 1]"]
    words += ["run_dir=1e3", f"data.list={'long ' * 40}x"]
    assert main(["config", *words]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(printed) == COMMAND.run(COMMAND.arguments_of(words)).config


def test_only_the_changed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "vggsound", "--changed", "heads.num_clusters=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split("#")[0].strip() == "num_clusters: 8" and line.endswith("# command line") for line in lines)
    assert not [line for line in lines if line.endswith("# default") and not line.startswith("run_dir")]


def test_a_run_folder_is_named_like_a_file(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", str(finished_run), "--changed"]) == 0
    assert f"# {finished_run}/config.resolved.yaml" in capsys.readouterr().out


def test_settings_without_an_effect_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "demo", "labelling.method=kmeans", "labelling.source=own", "labelling.tol=0.1"]) == 0
    assert "without an effect: labelling.tol needs labelling.method=transport" in capsys.readouterr().err


def test_a_wrong_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "small", "heads.num_heds=2"]) == 2
    assert "did you mean heads.num_heads?" in capsys.readouterr().err
    assert main(["config", "smal"]) == 2
    assert "no configuration file smal; give a path, or one of selavi's own" in capsys.readouterr().err
