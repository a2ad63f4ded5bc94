"""The tool as a whole; its parts are tested in tests/datamodules and tests/selavi/training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.doctor import installation
from datamodules.doctor.report import Check, Outcome
from tools import doctor as tool


@pytest.mark.slow
def test_a_whole_examination(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0"]
    assert tool.main(["--config", str(tiny_yaml), "--seconds", "0.1", "--json", *settings]) == 0
    told = json.loads(capfd.readouterr().out)
    assert {check["area"] for check in told["checks"]} == {"packages", "media", "machine", "data", "speed"}
    assert "problem" not in {check["mark"] for check in told["checks"]}
    assert told["measured"]["bottleneck"] in ("data", "model")
    assert told["measured"]["data"]["one"] > 0 and told["measured"]["model"]["training"] > 0
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_broken_installation_is_a_table_and_exit_code_2(
    tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> tuple[list[Check], dict[str, Outcome]]:
        return [Check("packages", "torchaudio", "problem", "does not import", "reinstall")], {}

    monkeypatch.setattr(installation, "examine_installation", broken)
    assert tool.main(["--config", str(tiny_yaml)]) == 2
    captured = capfd.readouterr()
    assert "  problem  torchaudio  does not import" in captured.out
    assert captured.err == "error: training cannot work yet: torchaudio, see above\n"


def test_wrong_settings_and_no_data_are_told(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--config", str(tiny_yaml), "heads.num_heds=2"]) == 2
    assert "did you mean heads.num_heads?" in capfd.readouterr().err
    torch = Outcome(facts={"cuda": None, "gpus": [], "said": []})
    monkeypatch.setattr(installation, "examine_installation", lambda _: ([], {"torch": torch}))
    assert tool.main(["--config", str(tiny_yaml), f"data.root={tmp_path / 'none'}"]) == 2
    assert "no such folder; point data.root at a folder of videos" in capfd.readouterr().out


def test_doctor_comes_up_where_packages_do_not_import(repository: Path, tmp_path: Path) -> None:
    """Each is named with what to do; an import of one of them at the top of doctor would be a traceback."""
    broken = ("torch", "av", "omegaconf")
    for name in broken:
        (tmp_path / f"{name}.py").write_text('raise ImportError("a broken build")')
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}
    command = [sys.executable, "-m", "selavi", "doctor", "--seconds", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for name in broken:
        assert re.search(rf"problem +{name} .*does not import: ImportError: a broken build", done.stdout), done.stdout
    assert re.search(r"problem +torchvision .*does not import because torch does not", done.stdout)
