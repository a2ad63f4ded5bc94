import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tools import scan


def test_it_writes_a_manifest_and_a_report(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in media.iterdir()}
    assert scan.main([str(media), "--workers", "1", "--audio-policy", "require", "--out", "out/m.parquet"]) == 0
    captured = capsys.readouterr()
    manifest = pq.read_table("out/m.parquet")
    found = dict(zip(manifest["id"].to_pylist(), manifest["status"].to_pylist(), strict=True))
    expected = {"plain": "ok", "short_sound": "ok", "mute": "no_audio", "silent": "silent", "empty": "empty"}
    assert expected == {name: found[f"{name}.mp4"] for name in expected}
    assert found["text.mp4"] == "not_media"
    report = Path("out/triage.md").read_text(encoding="utf-8")
    assert captured.out == report + "\n"
    assert "7 files, for clips of 1 s and audio_policy=require." in report
    assert "manifest: out/m.parquet" in captured.err and "Next: train   python tools/train.py" in captured.err
    assert {path: path.stat().st_mtime_ns for path in media.iterdir()} == before
    assert scan.main([str(media), "--out", "again.parquet"]) == 0  # another judgement of the same facts
    assert "scanning" not in capsys.readouterr().err
    again = pq.read_table("again.parquet")
    assert again["status"].to_pylist().count("ok") == 4


def test_a_list_is_joined(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("path,label,split\nplain.mp4,square,test\ngone.mp4,square,test\n")
    assert scan.main([str(media), "--list", "list.csv", "--workers", "1"]) == 0
    assert "using 1 of 2 clips of list.csv" in capsys.readouterr().out
    assert pq.read_table("manifest.parquet").select(["id", "label", "split", "status"]).to_pylist() == [
        {"id": "plain.mp4", "label": "square", "split": "test", "status": "ok"}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "data.root=nowhere: no such folder"),
        (["{media}", "--clip-s", "0"], "data.clip_s must be 0.04 to 600 seconds, got 0.0"),
        (["{media}", "--timeout-s", "-1"], "data.timeout_s must be above 0, got -1.0"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    message: str,
    media: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert scan.main([argument.format(media=media) for argument in arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_scan_ends_as_an_unbroken_one(
    number: signal.Signals, media: Path, tmp_path: Path, repository: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for copy in range(60):
        for file in sorted(media.iterdir()):
            os.link(shutil.copy(file, tmp_path), root / f"{copy}_{file.name}")
            (tmp_path / file.name).unlink()

    def command(name: str) -> list[str]:
        program = [sys.executable, str(repository / "tools" / "scan.py"), str(root), "--workers", "1"]
        return [*program, "--cache-dir", str(tmp_path / name), "--out", str(tmp_path / f"{name}.parquet")]

    environment = os.environ | {"PYTHONPATH": str(repository)}
    broken = subprocess.Popen(command("broken"), env=environment, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "broken"
    while not sum(file.stat().st_size for file in journal.glob("*.jsonl")):
        assert broken.poll() is None
        time.sleep(0.005)
    broken.send_signal(number)
    assert broken.wait(30) == (130 if number == signal.SIGINT else -9)
    assert broken.stderr is not None and "Traceback" not in broken.stderr.read()
    assert not (tmp_path / "broken.parquet").exists()
    assert list(journal.glob("*.jsonl"))
    for name in ("broken", "whole"):
        done = subprocess.run(command(name), env=environment, capture_output=True, text=True, check=True)
        assert ("scanning: 420 files" in done.stderr) == (name == "whole")
    assert pq.read_table(tmp_path / "broken.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
