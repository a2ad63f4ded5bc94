"""New clips get the labels that cluster_eval gives, in any number of processes, through any interruption."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.tensor_files import read_tensors
from tools import assign, cluster_eval, prepare, scan, train

Assign = Callable[..., pa.Table]
FIGURES = ("cluster", "confidence", "margin", "entropy", "modality_agreement")


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that reads its files, with the labels of its test clips by cluster_eval."""
    folder = tmp_path_factory.mktemp("assign") / "run"
    shutil.copytree(finished_run, folder)
    settings = folder / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("cache_gb: 1.0", "cache_gb: 0.0"))
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    return folder


@pytest.fixture
def label(run: Path, tmp_path: Path) -> Assign:
    """`label(path, "--option", ..., out=...)` runs the tool in this process and reads assignments.parquet."""

    def call(*arguments: object, out: Path = tmp_path / "out", code: int = 0) -> pa.Table:
        command = [str(run), *map(str, arguments), "--out", str(out), "--workers", "0"]
        assert assign.main(command) == code
        return pq.read_table(out / "assignments.parquet") if code == 0 else None

    return call


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


# ---- the labels ----


def test_unseen_clips_get_the_labels_of_cluster_eval(run: Path, label: Assign, demo_set: Path, tmp_path: Path) -> None:
    table = label(demo_set / "test", "--head", "all")
    expected = pq.read_table(run / "labels" / "test.parquet")
    ids = [clip_id.removeprefix("test/") for clip_id in expected["id"].to_pylist()]
    assert table["id"].to_pylist() == ids == sorted(ids)
    assert rows(table, "head", *FIGURES) == rows(expected, "head", *FIGURES)
    assert table.schema.names == [*CLUSTER_SCHEMA.names, "nearest"]
    assert table.drop_columns("nearest").schema.equals(CLUSTER_SCHEMA)
    assert rows(table, "label") == [(clip_id.split("/")[0],) for clip_id in ids]
    for cluster, confidence, margin, nearest in rows(table, "cluster", "confidence", "margin", "nearest"):
        shares = [entry["probability"] for entry in nearest]
        assert len({cluster, *(entry["cluster"] for entry in nearest)}) == 4
        assert [confidence, *shares] == sorted([confidence, *shares], reverse=True)
        assert confidence - shares[0] == pytest.approx(margin, abs=1e-6)
        assert confidence + sum(shares) <= 1 + 1e-6
    for head, cluster in {(head, cluster) for head, cluster in rows(table, "head", "cluster")}:
        same = table.filter((pc.field("head") == head) & (pc.field("cluster") == cluster))
        order = sorted(rows(same, "rank_in_cluster", "confidence"))
        assert [rank for rank, _ in order] == list(range(len(same)))
        assert [confidence for _, confidence in order] == sorted((c for _, c in order), reverse=True)
    twin = pa_csv.read_csv(tmp_path / "out" / "assignments.csv")
    assert twin.column_names[-2:] == ["nearest_3", "probability_3"]
    assert twin["id"].to_pylist() == ids
    assert rows(twin, "nearest_1") == [(nearest[0]["cluster"],) for nearest in table["nearest"].to_pylist()]


def test_the_same_accuracy_as_cluster_eval(
    run: Path, label: Assign, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(demo_set / "test")
    table = tmp_path / "out" / "assignments.parquet"
    assert f"cluster_eval.py --clusters {table} --labels {table}" in capsys.readouterr().err
    assert cluster_eval.main(["--clusters", str(table), "--labels", str(table)]) == 0
    found = json.loads((tmp_path / "out" / "assignments_metrics.json").read_text())
    expected = json.loads((run / "eval" / "metrics_test.json").read_text())["chosen"]
    assert [found[name] for name in ("accuracy", "nmi", "ari")] == pytest.approx(
        [expected[name] for name in ("accuracy", "nmi", "ari")]
    )


def test_the_likeliest_rule_knows_no_potentials(run: Path, label: Assign, demo_set: Path, tmp_path: Path) -> None:
    balanced = label(demo_set / "test")
    likeliest = label(demo_set / "test", "--rule", "likeliest", out=tmp_path / "other")
    assert balanced["id"].equals(likeliest["id"])
    # The plan's rows are the probabilities to the power of 20; the potentials may outweigh that for some clips.
    assert np.median(balanced["confidence"]) > np.median(likeliest["confidence"]) + 0.1
    assert balanced["modality_agreement"].equals(likeliest["modality_agreement"])


# ---- where clips come from ----


def test_a_manifest_and_files_one_by_one_give_the_rows_of_the_folder(
    label: Assign, demo_set: Path, tmp_path: Path
) -> None:
    folder = label(demo_set / "test")
    manifest = tmp_path / "list.parquet"
    cache = ["--cache-dir", str(tmp_path / "cache"), "--workers", "1"]
    assert scan.main([str(demo_set / "test"), "--out", str(manifest), *cache]) == 0
    assert label(manifest, out=tmp_path / "listed").equals(folder)
    paths = [demo_set / "test" / clip_id for clip_id in folder["id"].to_pylist()]
    assert label(*paths, out=tmp_path / "files").equals(folder)
    mixed = label(paths[3].parent, *paths[:2], paths[3], paths[-1], out=tmp_path / "mixed")
    wanted = {*folder["id"].to_pylist()[:4], folder["id"].to_pylist()[-1]}
    assert set(mixed["id"].to_pylist()) == wanted | {
        i for i in folder["id"].to_pylist() if i.startswith(f"{paths[3].parent.name}/")
    }


def test_shards_and_their_url_give_the_same_rows(label: Assign, demo_set: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    size = ["--size", "32", "--sample-rate", "8000", "--workers", "1", "--cache-dir", str(tmp_path / "cache")]
    assert prepare.main([str(demo_set), str(shards), *size]) == 0
    local = label(shards, "--shard-clips", "7")
    assert len(local) == 48
    assert local["id"].to_pylist() == sorted(local["id"].to_pylist())
    remote = label(f"file://{shards}", "--shard-clips", "7", out=tmp_path / "remote")
    assert rows(remote, "id", "cluster", "rank_in_cluster") == rows(local, "id", "cluster", "rank_in_cluster")


def test_wrong_paths_are_usage_errors(
    label: Assign, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "odd.parquet")
    for path, told in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "empty", "no clip in it (looked for .3g2, "),
        (tmp_path / "odd.parquet", "lacks the columns path, split"),
    ):
        label(path, code=2)
        assert told in capsys.readouterr().err
    label(demo_set / "test", tmp_path / "odd.parquet", code=2)
    assert "is a list of clips: give it alone" in capsys.readouterr().err
    assert not (tmp_path / "out" / "assign.json").exists()


# ---- one modality ----


@pytest.fixture
def odd_clips(media: Path, tmp_path: Path, chirp: np.ndarray) -> Path:
    """plain.mp4, mute.mp4 (the same picture), silent.mp4, sound.wav (the same sound) and still.wav, which is silent."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("plain", "mute", "silent"):
        shutil.copy(media / f"{name}.mp4", folder)
    for name, samples in (("sound", chirp), ("still", chirp * 0)):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
    return folder


def by_id(table: pa.Table) -> dict[str, tuple[Any, ...]]:
    return {str(row[0]): row[1:] for row in rows(table, "id", *FIGURES)}


def bad(out: Path) -> dict[str, str]:
    with (out / "bad.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["status"] for row in csv.DictReader(file)}


def test_clips_without_a_modality_are_labelled_by_the_other(label: Assign, odd_clips: Path, tmp_path: Path) -> None:
    found = by_id(label(odd_clips, "--features"))
    assert sorted(found) == ["mute.mp4", "plain.mp4", "silent.mp4", "sound.wav"]
    assert bad(tmp_path / "out") == {"still.wav": "silent"}
    assert {name: row[-1] is None for name, row in found.items()} == {
        "mute.mp4": True, "plain.mp4": False, "silent.mp4": True, "sound.wav": True
    }  # fmt: skip
    by_sight = by_id(label(odd_clips, "--modalities", "video", out=tmp_path / "sight"))
    assert sorted(by_sight) == ["mute.mp4", "plain.mp4", "silent.mp4"]  # sounds are not even listed
    assert by_sight["plain.mp4"] == by_sight["mute.mp4"]
    assert by_sight["plain.mp4"] == pytest.approx(found["mute.mp4"])
    by_ear = by_id(label(odd_clips, "--modalities", "audio", out=tmp_path / "ear"))
    assert sorted(by_ear) == ["plain.mp4", "sound.wav"]
    assert bad(tmp_path / "ear") == {"mute.mp4": "no_audio", "silent.mp4": "silent", "still.wav": "silent"}
    assert by_ear["sound.wav"] == found["sound.wav"]
    tensors, told = read_tensors(tmp_path / "out" / "features" / "00000.safetensors")
    ids = json.loads(told["ids"])
    lengths = {name: dict(zip(ids, values.norm(dim=1).tolist(), strict=True)) for name, values in tensors.items()}
    assert lengths["video"]["sound.wav"] == lengths["audio"]["mute.mp4"] == 0
    assert 0.5 < lengths["video"]["mute.mp4"] <= 1 + 1e-6 and 0.5 < lengths["audio"]["sound.wav"] <= 1 + 1e-6


@pytest.mark.end_to_end
@pytest.mark.parametrize(("modality", "labelled"), [("video", "mute.mp4"), ("audio", "sound.wav")])
def test_a_run_of_one_modality(tiny_yaml: Path, odd_clips: Path, tmp_path: Path, modality: str, labelled: str) -> None:
    folder = tmp_path / "alone"
    settings = [f"run_dir={folder}", f"modalities=[{modality}]", "trainer.max_epochs=1"]
    assert train.main(["--config", str(tiny_yaml), *settings]) == 0
    assert assign.main([str(folder), str(odd_clips), "--workers", "0"]) == 0
    table = pq.read_table(folder / "assigned" / "odd" / "assignments.parquet")
    assert {"plain.mp4", labelled} <= set(table["id"].to_pylist())
    assert not {"mute.mp4", "sound.wav"} <= set(table["id"].to_pylist())
    other = {"video": "audio", "audio": "video"}[modality]
    assert assign.main([str(folder), str(odd_clips), "--modalities", other]) == 2


# ---- bad files ----


def test_bad_files_are_listed_within_the_budget_and_end_the_tool_beyond_it(
    label: Assign, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(media, "--max-bad-fraction", "0.3", code=3)
    assert "3 of 7 files cannot be used (" in capsys.readouterr().err
    expected = {"empty.mp4": "empty", "text.mp4": "not_media", "truncated.mp4": "corrupt"}
    assert bad(tmp_path / "out") == expected
    assert not (tmp_path / "out" / "assignments.parquet").exists()
    table = label(media, "--max-bad-fraction", "0.5")  # the same folder: nothing is labelled again
    assert "shards to do" not in capsys.readouterr().err
    assert table["id"].to_pylist() == ["mute.mp4", "plain.mp4", "short_sound.mp4", "silent.mp4"]
    assert bad(tmp_path / "out") == expected
    files = [media / name for name in expected]
    label(*files, "--max-bad-fraction", "1", out=tmp_path / "none", code=3)
    assert "none of the 3 clips can be labelled" in capsys.readouterr().err


def test_a_file_that_changes_after_it_was_listed_is_bad(
    label: Assign, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.index import new_clips

    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        shutil.copy(media / "plain.mp4", folder / f"{name}.mp4")
    fix_list = new_clips.fix_list

    def and_then_lose_two(*arguments: object) -> None:
        fix_list(*arguments)  # type: ignore[arg-type]
        (folder / "a.mp4").unlink()
        (folder / "b.mp4").write_bytes((folder / "b.mp4").read_bytes()[:-100])

    monkeypatch.setattr("selavi.commands.assign_shards.fix_list", and_then_lose_two)
    table = label(folder, "--max-bad-fraction", "0.5")
    assert table["id"].to_pylist() == ["c.mp4", "d.mp4"]
    assert bad(tmp_path / "out") == {"a.mp4": "vanished", "b.mp4": "changed"}


# ---- many processes, interruptions ----


def test_two_tasks_and_one_process_give_the_same_rows(
    label: Assign, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = label(demo_set / "test", "--shard-clips", "3")
    out, share = tmp_path / "shared", [demo_set / "test", "--shard-clips", "3", "--task"]
    with pytest.raises(FileNotFoundError):
        label(*share, "1/2", out=out)
    assert "task 1/2 is done: 3 of 6 shards" in capsys.readouterr().err
    command = [str(part) for part in share[:-1]]
    assert assign.main([str(tmp_path), *command, "--merge-only", "--out", str(out)]) == 2  # not a run
    label(demo_set / "test", "--merge-only", out=out, code=2)
    assert "3 of 6 shards in" in capsys.readouterr().err
    assert label(*share, "0/2", out=out).equals(alone)
    for part in (tmp_path / "out" / "parts").iterdir():
        assert part.read_bytes() == (out / "parts" / part.name).read_bytes()
    shutil.rmtree(out / "parts")
    assert label(demo_set / "test", "--shard-clips", "3", "--task", "0/1", out=out).equals(alone)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_it_goes_on_where_it_was_stopped(
    run: Path, label: Assign, demo_set: Path, repository: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "stopped"
    options = ["--shard-clips", "2", "--features", "--views", "1"]
    command = [sys.executable, str(repository / "tools/assign.py"), str(run), str(demo_set), *options, "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, env=environment)
    parts = out / "parts"
    try:
        give_up = time.monotonic() + 200
        while len(list(parts.glob("[!.]*"))) < 2 and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert (number == signal.SIGKILL) or f"the finished shards in {out} are kept: the same command goes on" in error
    done = {part: part.stat().st_mtime_ns for part in parts.glob("[!.]*")}
    assert 2 <= len(done) < 24
    half = parts / ".00023.parquet.12345.tmp"
    half.write_bytes(b"half")
    table = label(demo_set, *options, out=out)
    assert not half.exists()
    assert {part: part.stat().st_mtime_ns for part in done} == done
    assert table.equals(label(demo_set, *options, out=tmp_path / "whole"))
    for folder in ("parts", "features"):
        files = sorted(path.name for path in (tmp_path / "whole" / folder).iterdir())
        assert len(files) == 24
        assert files == sorted(path.name for path in (out / folder).iterdir())
        for name in files:
            assert (out / folder / name).read_bytes() == (tmp_path / "whole" / folder / name).read_bytes()


def test_other_settings_and_other_folders_are_refused(
    run: Path, label: Assign, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(demo_set / "test")
    before = (tmp_path / "out" / "assignments.parquet").read_bytes()
    label(demo_set / "test", "--views", "2", "--rule", "likeliest", code=2)
    error = capsys.readouterr().err
    assert "was begun with other settings: rule was balanced, now likeliest; views was 3, now 2." in error
    label(demo_set / "train", code=2)
    assert "paths was " in capsys.readouterr().err
    other = tmp_path / "other_run"
    shutil.copytree(run, other)
    settings = other / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("clip_s: 1.0", "clip_s: 0.9"))
    out = ["--out", str(tmp_path / "out"), "--workers", "0"]
    assert assign.main([str(other), str(demo_set / "test"), *out]) == 2
    assert "other settings: run was " in capsys.readouterr().err
    label(demo_set / "test", out=demo_set / "test", code=2)
    assert "was not made by this tool: it holds " in capsys.readouterr().err
    assert (tmp_path / "out" / "assignments.parquet").read_bytes() == before


def test_numbers_out_of_range_are_usage_errors(
    label: Assign, demo_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, told in (
        (["--views", "0"], "--views must be at least 1"),
        (["--shard-clips", "0"], "--shard-clips must be at least 1"),
        (["--max-bad-fraction", "2"], "--max-bad-fraction must be in [0, 1]"),
        (["--task", "2/2"], "--task must be i/n with 0 <= i < n"),
        (["--head", "7"], "--head must be `chosen`, `all` or one of 0 to 1, got"),
    ):
        label(demo_set / "test", *options, code=2)
        assert told in capsys.readouterr().err


# ---- names ----


def test_names_are_applied_when_parts_are_merged(run: Path, demo_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    command = [str(folder), str(demo_set / "test"), "--head", "all", "--nearest", "7", "--workers", "0"]
    assert assign.main(command) == 0
    path = folder / "assigned" / "test" / "assignments.parquet"
    before = pq.read_table(path)
    first = before.filter(pc.field("head") == 0)
    used = [entry["values"] for entry in pc.value_counts(first["cluster"]).to_pylist()]
    named, merged = used[0], used[1]
    rejected = next(k for k in range(8) if k not in (named, merged))
    moved = next(clip for clip, cluster in rows(first, "id", "cluster") if cluster == named)
    (folder / "names.csv").write_text(
        "head,cluster,id,name,into,rejected\n"
        f'0,{named},,"a ""bell"", loud",,\n0,{merged},,,{named},\n0,{rejected},,,,1\n0,{named},{moved},,,1\n'
    )
    assert assign.main([*command, "--merge-only"]) == 0
    after = pq.read_table(path)
    assert after["id"].equals(before["id"])
    assert after.filter(pc.field("head") == 1).equals(before.filter(pc.field("head") == 1))
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        if old["head"]:
            continue
        final = {merged: named, rejected: -1}
        cluster = final.get(old["cluster"], old["cluster"])
        assert new["cluster"] == cluster  # also of `moved`: decisions about a clip are about those of the training
        assert new["name"] == ('a "bell", loud' if cluster == named else None)
        numbers = [final.get(entry["cluster"], entry["cluster"]) for entry in old["nearest"]]
        expected = [k for k in dict.fromkeys(numbers) if k not in (cluster, -1)]
        assert [entry["cluster"] for entry in new["nearest"]] == expected
        assert new["confidence"] == old["confidence"]
    both = after.filter((pc.field("head") == 0) & (pc.field("cluster") == named))
    ranked = sorted(rows(both, "rank_in_cluster", "confidence"))
    assert [rank for rank, _ in ranked] == list(range(len(both)))
    assert [c for _, c in ranked] == sorted((c for _, c in ranked), reverse=True)
    twin = pa_csv.read_csv(path.with_suffix(".csv"))
    assert twin["cluster"].to_pylist() == after["cluster"].to_pylist()
    assert twin["nearest_7"].null_count >= len(first)
