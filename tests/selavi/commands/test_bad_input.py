"""Every wrong input ends with an exit code and a message that says what to change; no traceback, nothing lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selavi.runs.folder import RunFolder
from tools import cluster_eval, export_clusters, train

Tool = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tool:
    """Runs a tool in an empty folder; returns the exit code and what it wrote."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(tool, *arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        code = tool.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.err + captured.out

    return call


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copied_run")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RunFolder(folder).lock.name  # names its last owner
    }


# ---- the configuration ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads.num_clusters=1"], "heads.num_clusters must be at least 2 (one cluster would hold every clip), got 1"),
        (["heads.num_heds=2"], "unknown setting heads.num_heds; did you mean heads.num_heads?"),
        (["optim.lr=fast"], "Value 'fast' of type 'str' could not be converted to Float (setting optim.lr)"),
        (["--config", "none.yaml"], "no configuration file none.yaml; give a path, or one of selavi's own: "),
        (["nonsense"], "expected section.key=value, got 'nonsense'"),
        (["data.root=nowhere"], "data.root=nowhere: no such folder; point data.root at a folder of videos"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_settings(run: Tool, tiny_yaml: Path, arguments: list[str], message: str) -> None:
    config = [] if "--config" in arguments else ["--config", tiny_yaml]
    code, error = run(train, *config, *arguments)
    assert code == 2
    assert error.startswith(f"error: {message}")
    assert list(Path.cwd().iterdir()) == []


def test_an_unreadable_configuration(run: Tool, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("heads: [\n")
    code, error = run(train, "--config", path)
    assert code == 2
    assert f"{path} is not valid YAML: " in error
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_without_media(run: Tool, tiny_yaml: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, error = run(train, "--config", tiny_yaml, f"data.root={empty}", "data.cache_dir=cache")
    assert code == 2
    assert "no media file in it (looked for .3g2, " in error
    assert list(Path.cwd().iterdir()) == []


def test_a_trainer_that_this_machine_does_not_have(run: Tool, tiny_yaml: Path) -> None:
    code, error = run(train, "--config", tiny_yaml, "trainer.accelerator=abacus")
    assert code == 2
    assert "the settings of section trainer do not work here: " in error
    assert list(Path.cwd().iterdir()) == []


# ---- the media ----


@pytest.fixture
def own(tmp_path: Path, media: Path) -> Callable[..., list[str]]:
    """Copies odd media to a folder of its own; returns settings that point there."""

    def make(*names: str) -> list[str]:
        root = tmp_path / "own"
        root.mkdir()
        for number, name in enumerate(names):
            shutil.copy(media / f"{name}.mp4", root / f"{number}.mp4")
        return [f"data.root={root}", f"data.cache_dir={tmp_path / 'own_cache'}", "heads.num_clusters=2"]

    return make


def test_no_sound_in_any_file(run: Tool, tiny_yaml: Path, own: Callable[..., list[str]]) -> None:
    code, error = run(train, "--config", tiny_yaml, *own("mute", "silent", "mute"))
    assert code == 2
    assert "none of the 3 training files in " in error and "modalities=[video]" in error
    assert list(Path.cwd().iterdir()) == []


def test_more_clusters_than_clips(run: Tool, tiny_yaml: Path, demo_set: Path) -> None:
    code, error = run(train, "--config", tiny_yaml, "heads.num_clusters=33")
    assert code == 2
    assert f"heads.num_clusters=33, but there are only 32 usable training clips in {demo_set}" in error
    assert "lower heads.num_clusters" in error
    assert list(Path.cwd().iterdir()) == []


def test_fewer_clips_than_a_step(run: Tool, tiny_yaml: Path) -> None:
    code, error = run(train, "--config", tiny_yaml, "optim.batch_size=33")
    assert code == 2
    assert "a step takes 33 clips, but " in error and "lower optim.batch_size" in error
    assert list(Path.cwd().iterdir()) == []


def test_too_many_bad_files(run: Tool, tiny_yaml: Path, own: Callable[..., list[str]]) -> None:
    code, error = run(train, "--config", tiny_yaml, *own("plain", "plain", "empty", "text"))
    assert code == 3
    assert "2 of 4 files cannot be used, data.max_bad_fraction=0.2 allows 0: 1 empty (such as 2.mp4); " in error
    assert "What to do about " in error and "data.max_bad_fraction sets the limit" in error
    assert list(Path.cwd().iterdir()) == []


def test_clips_that_are_all_too_short_are_not_to_be_repaired(
    run: Tool, tiny_yaml: Path, own: Callable[..., list[str]]
) -> None:
    code, error = run(train, "--config", tiny_yaml, *own("plain", "plain", "plain"), "data.clip_s=10")
    assert code == 3
    assert "3 too_short" in error and "a smaller data.clip_s" in error and "half of them last" in error
    assert "epair" not in error


def test_bad_files_within_the_budget_are_counted_and_listed(
    run: Tool, tiny_yaml: Path, own: Callable[..., list[str]]
) -> None:
    settings = own(*["plain"] * 9, "empty", "text")
    code, error = run(train, "--config", tiny_yaml, *settings, "optim.batch_size=4", "run_dir=run")
    assert code == 0
    assert "skipped: 1 empty (such as 9.mp4); 1 not_media (such as 10.mp4)" in error
    manifest = pq.read_table("run/manifest.parquet")
    reasons = dict(zip(manifest["id"].to_pylist(), manifest["reason"].to_pylist(), strict=True))
    assert reasons["9.mp4"] == "0 bytes"
    assert reasons["10.mp4"]
    assert len(set(pq.read_table("run/labels/train.parquet")["id"].to_pylist())) == 9


# ---- the run folder ----


def test_a_run_folder_that_exists(run: Tool, tiny_yaml: Path, copied_run: Path) -> None:
    before = snapshot(copied_run)
    code, error = run(train, "--config", tiny_yaml, f"run_dir={copied_run}")
    assert code == 2
    assert f"{copied_run} exists and is not empty; say resume=auto to go on with it, or run_dir=... " in error
    assert snapshot(copied_run) == before


def test_a_checkpoint_of_another_configuration(run: Tool, tiny_yaml: Path, copied_run: Path) -> None:
    (copied_run / "status.json").unlink()
    before = snapshot(copied_run)
    changed = ["optim.lr=0.5", "heads.num_heads=3", "labelling.head_groups=1"]
    code, error = run(train, "--config", tiny_yaml, f"run_dir={copied_run}", "resume=auto", *changed)
    assert code == 2
    assert "the checkpoint was made with other settings (heads.num_heads: 2 then, 3 now; " in error
    assert "optim.lr: 0.05 then, 0.5 now" in error
    assert snapshot(copied_run) == before


def test_a_damaged_checkpoint(run: Tool, tiny_yaml: Path, copied_run: Path) -> None:
    (copied_run / "status.json").unlink()
    RunFolder(copied_run).last_checkpoint.write_bytes(b"half a file")
    RunFolder(copied_run).previous_checkpoint.unlink()  # which would be taken in its place
    before = snapshot(copied_run)
    for tool, arguments in (
        (train, ["--config", tiny_yaml, f"run_dir={copied_run}", "resume=must"]),
        (cluster_eval, [copied_run]),
    ):
        code, error = run(tool, *arguments)
        assert code == 2
        assert "last.ckpt is not a checkpoint of selavi, or it is damaged" in error
    assert snapshot(copied_run) == before


def test_resuming_what_is_not_there(run: Tool, tiny_yaml: Path) -> None:
    code, error = run(train, "--config", tiny_yaml, "resume=must")
    assert code == 2
    assert "resume=must, but there is no checkpoint runs/tiny/checkpoints/last.ckpt" in error
    assert list(Path.cwd().iterdir()) == []


def test_other_clips_than_the_run_began_with(
    run: Tool, tiny_yaml: Path, copied_run: Path, demo_set: Path, tmp_path: Path
) -> None:
    (copied_run / "status.json").unlink()
    root = shutil.copytree(demo_set, tmp_path / "fewer")
    next((root / "train" / "fan_hum").iterdir()).unlink()
    before = snapshot(copied_run)
    settings = [f"run_dir={copied_run}", "resume=auto", f"data.root={root}"]
    code, error = run(train, "--config", tiny_yaml, *settings)
    assert code == 2
    assert "the checkpoint labels 32 clips, the data now has 31, 31 of them the same" in error
    assert "train/fan_hum/" in error  # the clip that is missing
    assert snapshot(copied_run) == before


def test_a_finished_run_is_reported(run: Tool, tiny_yaml: Path, copied_run: Path) -> None:
    before = snapshot(copied_run)
    code, error = run(train, "--config", tiny_yaml, f"run_dir={copied_run}", "resume=auto")
    assert code == 0
    assert f"{copied_run} is finished; nothing to train (python tools/train.py {copied_run} --more" in error
    assert "\nNext: measure" in error
    assert snapshot(copied_run) == before


# ---- measuring and exporting ----


@pytest.mark.parametrize("tool", [cluster_eval, export_clusters])
def test_what_is_not_a_run_folder(run: Tool, tool, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        code, error = run(tool, folder)
        assert code == 2
        assert f"{folder} is not a run folder: it has no config.resolved.yaml" in error
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("tool", [cluster_eval, export_clusters])
def test_a_split_that_does_not_exist(run: Tool, tool, copied_run: Path) -> None:
    before = snapshot(copied_run)
    code, error = run(tool, copied_run, "--split", "val")
    assert code == 2
    assert "val" in error and ("found: test (16 files), train (32 files)" in error or "cluster_eval" in error)
    assert snapshot(copied_run) == before


def test_other_wrong_arguments(run: Tool, copied_run: Path) -> None:
    before = snapshot(copied_run)
    for tool, arguments, message in (
        (cluster_eval, ["--views", "0"], "--views must be at least 1, got 0"),
        (export_clusters, ["--clips", "0"], "--clips must be at least 1, or `all`, got 0"),
        (export_clusters, ["--head", "best"], "--head must be `chosen`, `all` or a number, got 'best'"),
        (export_clusters, ["--head", "7"], "expected one of the heads [0, 1], got 7"),
    ):
        code, error = run(tool, copied_run, *arguments)
        assert code == 2
        assert message in error
    assert snapshot(copied_run) == before


def test_an_unfinished_run_has_nothing_to_export(run: Tool, copied_run: Path) -> None:
    shutil.rmtree(copied_run / "labels")
    code, error = run(export_clusters, copied_run)
    assert code == 2
    assert "labels" in error
    assert not (copied_run / "clusters.parquet").exists()


def test_weights_of_another_model(run: Tool, copied_run: Path) -> None:
    path = RunFolder(copied_run).last_checkpoint
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["model.heads.video.hidden"]
    torch.save(checkpoint, path)
    code, error = run(cluster_eval, copied_run)
    assert code == 2
    assert "does not fit its settings" in error


def unlabelled(manifest: pa.Table, keep: int = 0) -> pa.Table:
    labels = [label if row < keep else None for row, label in enumerate(manifest["label"].to_pylist())]
    column = manifest.schema.get_field_index("label")
    return manifest.set_column(column, "label", pa.array(labels, pa.string()))


def test_without_labels_the_label_free_figures_are_reported(run: Tool, copied_run: Path) -> None:
    path = copied_run / "manifest.parquet"
    pq.write_table(unlabelled(pq.read_table(path)), path)
    code, text = run(cluster_eval, copied_run, "--split", "test")
    assert code == 0
    assert "none has a label, so no NMI, ARI or accuracy" in text
    metrics = json.loads((copied_run / "eval" / "metrics_test.json").read_text())
    assert metrics["labelled"] is False
    assert "oracle" not in metrics
    assert len(metrics["heads"]) == 2
    for entry in (*metrics["heads"], metrics["chosen"]):
        assert "nmi" not in entry
        assert entry["n"] == 16
        assert 1 <= entry["used_clusters"] <= 8


def test_clips_that_cannot_be_decoded_are_left_out_and_counted(
    run: Tool, copied_run: Path, demo_set: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(demo_set, tmp_path / "moved")
    path = copied_run / "manifest.parquet"
    manifest = pq.read_table(path)
    pq.write_table(manifest.replace_schema_metadata({"root": str(root)}), path)
    settings = copied_run / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("cache_gb: 1.0", "cache_gb: 0.0"))
    gone = sorted((root / "test" / "fan_hum").iterdir())
    gone[0].unlink()
    gone[1].write_bytes(b"no film")
    code, text = run(cluster_eval, copied_run, "--split", "test")
    assert code == 0
    assert "2 clips could not be decoded and are left out, such as test/fan_hum/" in text
    metrics = json.loads((copied_run / "eval" / "metrics_test.json").read_text())
    assert metrics["chosen"]["n"] == 14
    assert set(metrics["undecodable"]) == {file.relative_to(root).as_posix() for file in gone}
    labels = pq.read_table(copied_run / "labels" / "test.parquet")
    assert len(labels) == 14 * 2
    assert not set(labels["id"].to_pylist()) & set(metrics["undecodable"])
    shutil.rmtree(root / "test")
    code, error = run(cluster_eval, copied_run, "--split", "test")
    assert code == 3
    assert "none of the 16 clips could be decoded; the first: vanished: " in error
