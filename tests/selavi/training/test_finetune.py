import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.inference.load import load_model
from selavi.runs.checkpoint import newest_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.record import Run, load_run
from selavi.training import finetune as ft
from tools import finetune, probe

LABELS = [f"class {number % 3}" for number in range(9)]


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return load_run(finished_run)


@pytest.fixture
def config(tiny: Callable[..., Config], run: Run) -> Config:
    given = ["optim.lr=0.08", "optim.warmup_lr=0.01", "optim.warmup_epochs=2", "trainer.max_epochs=10"]
    return ft.finetune_config(tiny(*given, "finetune.milestones=[4, 8]"), [], run, None)


def module(config: Config, run: Run) -> ft.FinetuneModule:
    return ft.FinetuneModule(config, run, LABELS, steps_per_epoch=5)


def test_the_encoder_is_the_runs_and_what_it_reads_too(config: Config, run: Run) -> None:
    assert (config.encoders, config.audio, config.modalities) == (run.config.encoders, run.config.audio, ["video"])
    trained = load_model(run)[0].encoders["video"].state_dict()
    found, fresh = module(config, run), module(replace(config, finetune=replace(config.finetune, start="random")), run)
    assert all(torch.equal(value, trained[name]) for name, value in found.encoder.state_dict().items())
    assert not torch.equal(fresh.encoder.stem[0].weight, trained["stem.0.weight"])
    assert all(part.training for part in found.modules())
    square = found.classifier.weight @ found.classifier.weight.T
    assert torch.allclose(square, torch.eye(3), atol=1e-5)


def test_settings_that_the_encoder_fixes_are_refused(tiny: Callable[..., Config], run: Run) -> None:
    with pytest.raises(UsageError, match=r"encoders.video_width=8 cannot be set: "):
        ft.finetune_config(tiny(), ["optim.lr=1", "encoders.video_width=8"], run, None)
    silent = replace(run, config=replace(run.config, modalities=["video"]))
    with pytest.raises(UsageError, match=r"finetune.modality=audio, but .* it has video"):
        ft.finetune_config(tiny("finetune.modality=audio"), [], silent, None)
    with pytest.raises(UsageError, match=r"--folds need data.list with \{fold\}"):
        ft.finetune_config(tiny(), [], run, "1")


def test_a_fold_has_its_list_and_its_folder(tiny: Callable[..., Config], run: Run) -> None:
    config = ft.finetune_config(tiny("data.list=/lists/*list0{fold}.txt", "run_dir=runs/x"), [], run, "2")
    assert (config.data.list, config.run_dir) == ("/lists/*list02.txt", "runs/x/fold2")


def test_the_rate_rises_then_drops_at_each_milestone(config: Config, run: Run) -> None:
    settings = module(config, run).configure_optimizers()
    optimizer, scheduler = settings["optimizer"], settings["lr_scheduler"]["scheduler"]  # type: ignore[index, typeddict-item]
    rates = []
    for _ in range(50):
        encoder, classifier = scheduler.get_last_lr()
        assert encoder == pytest.approx(0.1 * classifier)
        rates.append(classifier)
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.045)
    assert rates[10:20] == pytest.approx([0.08] * 10)
    assert rates[20:40] == pytest.approx([0.08 * 0.05] * 20)
    assert rates[40:] == pytest.approx([0.08 * 0.05**2] * 10)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_the_published_protocol(name: str, repository: Path) -> None:
    """finetune_video.py of the original: 12 epochs of 10 clips a video; see docs/representation.md."""
    config = load_config(repository / "configs" / f"finetune_{name}.yaml")
    optim, settings, video = config.optim, config.finetune, config.video
    assert config.trainer.max_epochs == 12 * 10
    assert settings.milestones == [6 * 10, 10 * 10] and settings.gamma == 0.05
    assert (optim.batch_size, optim.momentum, optim.weight_decay) == (32, 0.9, 0.005)
    assert optim.lr == pytest.approx(8 * 0.0025) and optim.lr * settings.encoder_lr == pytest.approx(8 * 0.00025)
    assert optim.warmup_lr == 0.0025 and optim.warmup_epochs == 2 * 10
    assert (video.num_frames, video.size) == (32, 128)
    assert config.data.clip_s == pytest.approx(32 / 30, abs=1e-6)
    assert tuple(video.crop_fraction) == (128 / 160, 1.0)
    assert (settings.test_views, settings.test_crops) == (10, 3)
    assert settings.group == name


def views(config: Config, pixels: list[list[int]], present: list[bool]) -> ClipBatch:
    size, num_views = config.video.decode_size, len(pixels[0])
    first = torch.tensor(pixels).flatten()
    video = first[:, None, None, None, None].expand(-1, config.video.num_frames, size, size, 3).byte()
    return ClipBatch(
        torch.arange(len(pixels)).repeat_interleave(num_views),
        {"video": video},
        {"video": torch.tensor(present).repeat_interleave(num_views)},
        torch.full((len(video), NUM_DRAWS), 0.5),
        [],
    )


def test_views_are_averaged_and_undecodable_clips_count_as_wrong(config: Config, run: Run) -> None:
    found = module(config, run)
    weights = 4 * torch.eye(3)
    with torch.no_grad():
        found.classifier.weight = torch.nn.Parameter(weights)
    values = {0: (1.0, 0, 0), 1: (0, 1.0, 0), 2: (0, 0, 1.0)}

    class Pixels(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            grey = ((clips[:, 0, 0, 0, 0] * 0.225 + 0.45) * 255).round().long()
            return torch.tensor([values[int(each)] for each in grey])

    found.encoder = Pixels()
    batch = views(config, [[0, 0, 1], [1, 1, 1], [2, 2, 0], [0, 0, 0]], [True, True, True, False])
    labels = ["class 0", "class 2", "class 2", "class 0"]
    score = found.score([batch], labels, 3)
    assert score == {
        "accuracy": 0.5,
        "top5": 0.75,  # three classes: every clip that was decoded
        "class_accuracy": 0.5,
        "clips": 4,
        "undecodable": 1,
    }
    unknown = found.score([batch], ["class 0", "never seen", "class 2", "class 0"], 3)
    assert unknown["class_accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.training


def test_a_clip_without_picture_teaches_nothing(config: Config, run: Run) -> None:
    torch.manual_seed(0)
    batch = views(config, [[20], [90]], [True, False])
    found = module(config, run)
    found.log = lambda *_: None  # type: ignore[assignment, method-assign]
    found.encoder.eval()
    loss = found.training_step(batch, 0)
    alone = found.training_step(views(config, [[20]], [True]), 0)
    assert loss.item() == pytest.approx(alone.item())


# ---- the tools, end to end ----


@pytest.fixture
def fit(run: Run, tiny_yaml: Path) -> Callable[..., int]:
    """`fit(folder, ...)` fine-tunes the tiny run's video encoder in this process."""
    settings = ["finetune.test_views=2", "finetune.test_crops=1", "finetune.validation_every=1"]
    settings += ["finetune.milestones=[3]", "finetune.validation_fraction=0.25", "labelling.batch_size=4"]
    base = [str(run.folder), "--config", str(tiny_yaml), *settings]
    return lambda folder, *given: finetune.main([*base, f"run_dir={folder}", *given])


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "eval" / "finetune_test.json").read_text())


@pytest.mark.end_to_end
def test_fine_tuning_goes_on_where_it_stopped_and_tests_once(
    fit: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from selavi.errors import Interrupted
    from selavi.training import callbacks

    assert fit(tmp_path / "whole", "trainer.max_epochs=3") == 0
    shown = capsys.readouterr()
    assert "24 clips to learn from, 8 held out" in shown.err
    assert "all" in shown.out and "best epoch" in shown.out
    scores, score = [], ft.FinetuneModule.score

    def note(self, batches, labels, num_views):  # type: ignore[no-untyped-def]
        scores.append(len(labels))
        return score(self, batches, labels, num_views)

    def stop(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == 5:
            raise Interrupted("stopped by a test")

    monkeypatch.setattr(ft.FinetuneModule, "score", note)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Survival, "on_train_batch_end", stop)
        assert fit(tmp_path / "again", "trainer.max_epochs=3") == 75
    assert scores == [8]  # one epoch validated, nothing tested
    assert fit(tmp_path / "again", "trainer.max_epochs=3", "resume=auto") == 0
    assert scores == [8, 8, 8, 16]
    found, expected = result(tmp_path / "again"), result(tmp_path / "whole")
    assert found == expected
    assert found["test"]["clips"] == 16 and found["test"]["left_out"] == 0  # type: ignore[index]
    assert found["test"]["accuracy_all"] == found["test"]["accuracy"]  # type: ignore[index]
    assert fit(tmp_path / "again", "trainer.max_epochs=3", "resume=auto") == 0
    assert scores == [8, 8, 8, 16]  # finished: read, not tested again


@pytest.mark.end_to_end
def test_another_encoder_does_not_go_on_with_a_checkpoint(
    fit: Callable[..., int], tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path / "run", "trainer.max_epochs=1") == 0
    (tmp_path / "run" / "status.json").unlink()
    other = shutil.copytree(run.folder, tmp_path / "other")
    checkpoint = torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["model.encoders.video.stem.0.weight"] += 1
    torch.save(checkpoint, other / "checkpoints" / "last.ckpt")
    changed = ft.finetune_config(load_config(tmp_path / "run" / "config.resolved.yaml"), [], run, None)
    strange = ft.FinetuneModule(changed, load_run(other), [f"{n}" for n in range(8)], 3)
    with pytest.raises(UsageError, match="knows 8 classes"):
        strange.check_checkpoint(newest_checkpoint(RunFolder(tmp_path / "run"), ft.KIND))
    known = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["classifier"]["classes"]
    strange = ft.FinetuneModule(changed, load_run(other), known, 3)
    with pytest.raises(UsageError, match="began with another encoder"):
        strange.check_checkpoint(newest_checkpoint(RunFolder(tmp_path / "run"), ft.KIND))


@pytest.mark.end_to_end
def test_folds_of_a_list_are_probed_and_fine_tuned_apart(
    fit: Callable[..., int], run: Run, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path.relative_to(demo_set) for path in demo_set.rglob("*.mp4"))
    for fold in (1, 2):
        rows = [f"{path.as_posix()},{'test' if n % 3 == fold else 'train'}" for n, path in enumerate(files)]
        (tmp_path / f"list{fold}.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    lists = f"data.list={tmp_path}/list{{fold}}.csv"
    assert fit(tmp_path / "tuned", "trainer.max_epochs=1", lists, "--folds", "1", "2") == 0
    assert [result(tmp_path / "tuned" / f"fold{n}")["test"]["clips"] for n in (1, 2)] == [16, 16]  # type: ignore[index]
    assert "mean" in capsys.readouterr().out
    copied = shutil.copytree(run.folder, tmp_path / "copied")
    given = [str(copied), lists, "--folds", "1", "2", "--views", "1", "--untrained"]
    assert probe.main(given) == 0
    assert "fold 2, video+audio (untrained)" in capsys.readouterr().out
    found = json.loads((copied / "eval" / f"probe_{demo_set.name}_test.json").read_text())
    assert [row["fold"] for row in found["rows"]] == ["1"] * 6 + ["2"] * 6
    assert len(found["mean"]) == 6
    assert all(row["test"] == 16 and row["train"] == 32 for row in found["rows"])
