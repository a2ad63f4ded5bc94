"""Every command that runs a model puts it where the run's settings and this machine say."""

import ast
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selavi.config import TrainerConfig
from selavi.inference.device import best_device, chosen_precision, device_words

COMMANDS = Path(__file__).resolve().parents[3] / "selavi" / "commands"
MAKERS = {"load_model", "untrained_model", "make"}
"""Functions that give a model on a device; commands call both through `make` too."""


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda path: path.stem)
def test_every_model_of_a_command_is_given_a_device(path: Path) -> None:
    """evaluate did not, and ran on the processor beside an idle GPU."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS
    ]
    assert all(len(call.args) == 2 for call in calls), [call.lineno for call in calls]


def test_the_walk_sees_the_commands_that_run_models() -> None:
    users = {path.stem for path in COMMANDS.glob("*.py") if "load_model(" in path.read_text(encoding="utf-8")}
    assert users >= {"evaluate_run", "assign_shards", "features", "evidence", "compare", "degrade", "refit"}


@pytest.mark.parametrize(("accelerator", "said"), [("gpu", True), ("cuda", True), ("auto", False), ("cpu", False)])
def test_a_gpu_that_is_missing_is_named(
    accelerator: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING, "selavi"):
        assert best_device(accelerator) == torch.device("cpu")
    assert (f"torch sees no GPU here (the run has trainer.accelerator={accelerator})" in caplog.text) == said


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert best_device("auto") == torch.device("cuda", 1)
    assert best_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cpu"])
def test_a_gpu_that_computes_in_bfloat16_does(accelerator: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    trainer = TrainerConfig(accelerator=accelerator)
    is_native = native and accelerator != "cpu"
    assert chosen_precision(trainer) == ("bf16-mixed" if is_native else "32-true")
    assert all(chosen_precision(replace(trainer, precision=each)) == each for each in ("32-true", "bf16-mixed"))
    words = f"H200 in {'bfloat16' if native else 'float32'} (trainer.precision=auto)"
    assert device_words(trainer) == ("" if accelerator == "cpu" else words)


def test_the_processor_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_precision(TrainerConfig()) == "32-true"


@pytest.mark.end_to_end
def test_features_of_a_large_set_load_the_model_once(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from selavi.commands import features as command
    from selavi.inference import features
    from selavi.runs.record import load_run

    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(folder / "eval", ignore_errors=True)
    loaded = []
    load = command.load_model
    monkeypatch.setattr(command, "load_model", lambda *given: (loaded.append(given), load(*given))[1])
    monkeypatch.setattr(features, "PART", 5)  # 32 clips are seven parts
    ids = load_run(folder).manifest.filter(load_run(folder).manifest["split"].to_numpy() == "train")["id"]
    found, why = command.features_of(folder, "train", ids)
    assert why is None and len(loaded) == 1
    assert all(len(values) == 32 for values in found.values())
