import json
import shutil
from pathlib import Path

import pytest

from selavi.evaluation import degradation
from tools import degrade, probe


@pytest.mark.end_to_end
def test_one_run_under_two_corruptions(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    some = [f"SeLaVi={finished_run}", "--views", "1", "--out", str(out), "--corruptions", "compression"]
    assert degrade.main([*some, "--kmeans", "video+audio"]) == 0
    assert "compressed picture (CRF of H.264), NMI" in capsys.readouterr().out
    rows = json.loads((out / "degradation_test.json").read_text())["rows"]
    assert len(rows) == 2 * (1 + 6)
    assert all(row["clips"] == 16 for row in rows)
    assert "<svg" in (out / "degradation_test_compression.svg").read_text()

    measured, measure = [], degradation.measure

    def note(batches, name, *others, **settings):  # type: ignore[no-untyped-def]
        measured.append(name)
        return measure(batches, name, *others, **settings)

    monkeypatch.setattr(degradation, "measure", note)
    assert degrade.main([*some, "no_audio", "--kmeans", "video+audio"]) == 0
    assert measured == ["no_audio"]  # the rest is in the file
    again = json.loads((out / "degradation_test.json").read_text())["rows"]
    assert again[: len(rows)] == rows


def test_wrong_requests_end_with_a_message(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "out"
    for tool, arguments, message in (
        (degrade, [str(run), "--corruptions", "fog"], "no corruption 'fog'"),
        (degrade, [f"name={tmp_path}/none"], "is not a run folder"),
        (degrade, [str(run), "--split", "nowhere"], "no file in split 'nowhere'"),
        (probe, [str(run), "--split", "train"], "--split train is what the probes learn from"),
        (probe, [str(run), "--folds", "1"], "folds need data.list with {fold}"),
        (probe, [str(run), "encoders.video_width=8"], "encoders.video_width=8 cannot be changed"),
    ):
        extra = ["--out", str(out)] if tool is degrade else []
        assert tool.main([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()
    assert not (run / "eval").exists()


def test_probing_other_clips_generates_no_demo_set(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "empty"
    settings = run / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("demo: false", "demo: true"))
    other.mkdir()
    assert probe.main([str(run), f"data.root={other}"]) == 2
    assert "no media file in it" in capsys.readouterr().err
    assert list(other.iterdir()) == []
