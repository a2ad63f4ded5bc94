"""Media that have moved are missed in those words, and found with data.root=NEW by every tool that reads them."""

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from datamodules.clips import check_bad_fraction
from datamodules.index.manifest import mark_unusable, usable
from datamodules.index.moved import at_root, moved_to, require_clips, with_own_times, without_late_comers
from selavi.config import load_config
from selavi.errors import DataError, UsageError
from selavi.runs.manifest import check_manifest, file_state
from tools import cluster_eval, compare, degrade, export_clusters, prepare, probe


@pytest.fixture
def moved(finished_run: Path, demo_set: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A finished run, the folder that its media were in, and a copy of them, with other times, in another one."""
    run, old, new = tmp_path / "run", tmp_path / "old place", tmp_path / "new place"
    shutil.copytree(finished_run, run)
    for file in sorted(demo_set.rglob("*.mp4")):
        target = new / file.relative_to(demo_set)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    manifest = pq.read_table(run / "manifest.parquet")
    pq.write_table(manifest.replace_schema_metadata({"root": str(old)}), run / "manifest.parquet")
    settings = run / "config.resolved.yaml"
    lines = settings.read_text(encoding="utf-8").splitlines()
    lines = [f"  root: {old}" if line.startswith("  root:") else line for line in lines]
    lines = [f"  cache_dir: {tmp_path / 'cache'}" if line.startswith("  cache_dir:") else line for line in lines]
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run, old, new


def commands(run: Path, out: Path) -> dict[str, tuple[object, list[str]]]:
    words = ["--views", "1"]
    return {
        "cluster_eval": (cluster_eval.main, [str(run), "--split", "test", *words]),
        "degrade": (degrade.main, [str(run), "--corruptions", "no_audio", "--out", str(out), *words]),
        "compare": (
            compare.main,
            ["--runs", str(run), "--splits", "test", "--seeds", "0", "--out", str(out), *words],
        ),
        "probe": (probe.main, [str(run), *words]),
    }


@pytest.mark.parametrize(
    "tool",
    ["cluster_eval", "probe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("degrade", "compare"))],
)
def test_tools_say_that_the_media_have_moved_and_take_the_new_place(
    moved: tuple[Path, Path, Path], tmp_path: Path, tool: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run, old, new = moved
    main, words = commands(run, tmp_path / "out")[tool]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert f"the media folder {old} is not there any more" in error and "say data.root=NEW" in error.replace("S", "s")
    assert "corrupt" not in error
    assert main([*words, f"data.root={new}"]) == 0
    error = capfd.readouterr().err
    assert "corrupt" not in error and "vanished" not in error
    if tool == "cluster_eval":
        measured = json.loads((run / "eval" / "metrics_test.json").read_text())
        assert not measured["undecodable"] and measured["chosen"]["n"] == 16
        labelled = pq.read_table(run / "labels" / "test.parquet")["id"].to_pylist()
        assert set(labelled) == {file.relative_to(new).as_posix() for file in (new / "test").rglob("*.mp4")}


@pytest.mark.slow
def test_the_gallery_takes_the_new_place(
    moved: tuple[Path, Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, new = moved
    monkeypatch.setenv("HOME", str(new.parent))
    assert export_clusters.main([str(run), "data.root=~/new place", "--evidence", "1", "--to", "videofolder"]) == 0
    told = capfd.readouterr().err
    assert "placeholder" not in told and "nothing glows" not in told and "could not" not in told
    assert list((run / "contrast-and-sound").glob("*.parquet"))
    assert any((run / "handover").rglob("*.mp4"))


@pytest.mark.slow
def test_prepared_clips_are_a_new_place(
    moved: tuple[Path, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _, new = moved
    for kind in ("shards", "files"):
        out = tmp_path / kind
        words = ["--size", "64", "--sample-rate", "8000", "--workers", "1", "--cache-dir", str(tmp_path / "scans")]
        assert prepare.main([str(new), str(out), "--format", kind, *words]) == 0
        assert cluster_eval.main([str(run), "--views", "1", f"data.root={out}"]) == 0
    assert "corrupt" not in capfd.readouterr().err


def test_a_place_without_the_clips_is_refused(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, _, new = moved
    config, manifest = load_config(run / "config.resolved.yaml"), pq.read_table(run / "manifest.parquet")
    with pytest.raises(UsageError, match=r"none of the run's clips is in .*looked for 48, such as .*\.mp4"):
        at_root(config, manifest, str(tmp_path))
    with pytest.raises(UsageError, match=r"no such folder \(No such file or directory\); say where they are now"):
        at_root(config, manifest, str(tmp_path / "none"))
    same_config, same = at_root(config, manifest, "")
    assert same_config is config and same is manifest
    found_config, found = at_root(config, manifest, str(new))
    assert found_config.data.root == str(new)
    assert found["id"].equals(manifest["id"]) and set(found["mtime_ns"].to_pylist()) == {0}


def test_some_missing_files_are_a_counted_warning(
    moved: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    run, _, new = moved
    config, manifest = load_config(run / "config.resolved.yaml"), pq.read_table(run / "manifest.parquet")
    gone = next((new / "test").rglob("*.mp4"))
    gone.unlink()
    config, manifest = at_root(config, manifest, str(new))
    assert f"1 of 48 files that were looked for are not in {new} any more" in caplog.text
    assert gone.relative_to(new).as_posix() in caplog.text


def test_what_was_prepared_and_is_gone_is_not_replaced_by_the_originals_in_silence(
    moved: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run, old, new = moved
    config, manifest = load_config(run / "config.resolved.yaml"), pq.read_table(run / "manifest.parquet")
    new.rename(old)
    config.data.root = str(tmp_path / "shards")
    with pytest.raises(UsageError, match=f"data.root moved. Say data.root=NEW, or data.root={old} for the original"):
        require_clips(config, manifest)


def test_probe_knows_its_own_clips_from_others(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, _, new = moved
    manifest = pq.read_table(run / "manifest.parquet")
    assert moved_to(manifest, []) == ""
    assert moved_to(manifest, [f"data.root={new}"]) == str(new)
    assert moved_to(manifest, [f"data.root={tmp_path}"]) is None
    assert moved_to(manifest, [f"data.root={new}", "data.clip_s=2"]) is None


def test_times_that_are_written_down_are_those_of_the_new_place(moved: tuple[Path, Path, Path]) -> None:
    run, _, new = moved
    config, manifest = load_config(run / "config.resolved.yaml"), pq.read_table(run / "manifest.parquet")
    _, manifest = at_root(config, manifest, str(new))
    kept = check_manifest(with_own_times(manifest), "written").to_pylist()  # which trusts no time that is not known
    assert not any(file_state(new / row["path"], row["bytes"], row["mtime_ns"]) for row in kept)


def test_clips_that_come_late_stay_left_out(moved: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    run, _, _ = moved
    path = run / "manifest.parquet"
    manifest = pq.read_table(path)
    first, second, third = manifest.filter(pc.equal(manifest["split"], "train"))["id"].to_pylist()[:3]
    other = manifest.filter(pc.equal(manifest["split"], "test"))["id"][0].as_py()
    assert without_late_comers(manifest, path, "train") is manifest
    faults = {first: ("unreadable", "stale"), other: ("vanished", "gone"), second: ("corrupt", "broken")}
    pq.write_table(mark_unusable(manifest, faults), path)
    pieces = pc.replace_substring(manifest["id"], first, f"{first}#t=0.0,1.0")  # cut, now that its length is known
    cut = manifest.set_column(0, "id", pieces)
    for now in (manifest, cut):
        left = usable(without_late_comers(now, path, "train"))
        assert len(left) == len(manifest) - 1 and {other, second, third} <= set(left["id"].to_pylist())
    assert "1 clips can be read now that could not be read when the run began" in caplog.text
    assert without_late_comers(manifest, run / "none.parquet", "train") is manifest


def test_a_folder_that_goes_away_in_a_scan_is_named(moved: tuple[Path, Path, Path]) -> None:
    run, old, new = moved
    manifest = pq.read_table(run / "manifest.parquet")
    faults = dict.fromkeys(manifest["id"].to_pylist(), ("vanished", "No such file or directory"))
    bad = mark_unusable(manifest, faults)
    with pytest.raises(DataError, match=rf"The media folder {old} is gone \(No such .*the same command reads these"):
        check_bad_fraction(bad, 0.1)
    with pytest.raises(DataError) as caught:
        check_bad_fraction(bad.replace_schema_metadata({"root": str(new)}), 0.1)
    assert "is gone" not in str(caught.value)
