"""Long recordings cut into pieces, from the scan to the page and to a new recording."""

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from datamodules.synthetic import Event, generate_long
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import media_root, read_manifest
from tools import assign, cluster_eval, export_clusters, prepare, train

pytestmark = pytest.mark.end_to_end
CUT = ("data.cut=every", "data.cut_s=2")


@pytest.fixture(scope="module")
def events() -> list[list[Event]]:
    return []


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, events: list[list[Event]]) -> Path:
    """Two recordings of half a minute to train on and one to test; names that CSV and URLs must escape."""
    root = tmp_path_factory.mktemp("field") / "media"
    for number, name in enumerate(("train/a/one.mp4", "train/b/two, 50%.mp4", "test/a/three.mp4")):
        (root / name).parent.mkdir(parents=True)
        events.append(generate_long(root / name, seed=number, length_s=30, event_s=(4, 8)))
    return root


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path, media: Path) -> list[str]:
    cache_dir = tmp_path_factory.mktemp("cache_of_long")
    return ["--config", str(tiny_yaml), f"data.root={media}", f"data.cache_dir={cache_dir}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, usual: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main([*usual, *CUT, f"run_dir={folder}"]) == 0
    return folder


def labels(folder: Path) -> torch.Tensor:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]["labels"]


def test_events_follow_each_other_without_gaps(events: list[list[Event]], media: Path) -> None:
    for of_recording in events:
        assert len(of_recording) >= 3 and of_recording[0].start_s == 0
        for one, following in pairwise(of_recording):
            assert following.start_s == one.end_s and following.class_name != one.class_name
    assert events[0] != events[1]


def test_every_piece_is_a_clip_of_its_recordings_split(run: Path, media: Path, events: list[list[Event]]) -> None:
    manifest = read_manifest(RunFolder(run).manifest)
    assert media_root(manifest) == media
    for name, of_recording in zip(("train/a/one", "train/b/two, 50%", "test/a/three"), events, strict=True):
        rows = [row for row in manifest.to_pylist() if row["path"] == f"{name}.mp4"]
        assert [row["start_s"] for row in rows] == [2.0 * n for n in range(len(rows))]
        assert of_recording[-1].end_s - 1.0 < rows[-1]["end_s"] <= of_recording[-1].end_s + 0.1
        assert {row["split"] for row in rows} == {name.split("/")[0]}
        assert rows[1]["id"] == f"{name}.mp4#t=2.0,4.0"
    assert len(labels(run)) == sum(row["split"] == "train" for row in manifest.to_pylist())


def test_labels_do_not_depend_on_who_reads_the_pieces(usual: list[str], tmp_path: Path) -> None:
    """Neighbours are decoded together, by whichever process; what comes out is a matter of the clips alone."""
    runs = [tmp_path / "alone", tmp_path / "two"]
    for folder, num_workers in zip(runs, (0, 2), strict=True):
        words = [*CUT, "data.cache_gb=0", f"data.num_workers={num_workers}", f"run_dir={folder}"]
        assert train.main([*usual, *words]) == 0
    assert torch.equal(labels(runs[0]), labels(runs[1]))


def test_a_folder_of_few_long_recordings_hears_of_cutting(
    usual: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*usual, f"run_dir={tmp_path / 'run'}", "data.cut_s=2"]) == 2
    assert "or cut the recordings: data.cut=every makes about 31 clips of 2 s of them" in capsys.readouterr().err
    assert train.main([*usual, f"run_dir={tmp_path / 'run'}", *CUT, "data.clip_s=3"]) == 2
    assert "data.cut_s must be at least data.clip_s=3, got 2" in capsys.readouterr().err


def test_the_tables_and_the_page_say_where_a_piece_lies(run: Path) -> None:
    assert cluster_eval.main([str(run)]) == 0
    assert export_clusters.main([str(run)]) == 0
    table = pq.read_table(run / "clusters.parquet")
    times = zip(*(table[name].to_pylist() for name in ("id", "start_s", "end_s")), strict=True)
    assert all(clip_id.endswith(f"#t={start_s:.1f},{_short(end_s)}") for clip_id, start_s, end_s in times)
    shown = list(_members(run / "gallery"))
    assert {entry["path"] for entry in shown} <= {"test/a/three.mp4", "train/a/one.mp4", "train/b/two, 50%.mp4"}
    assert len({entry["media"] for entry in shown}) <= 3 < len({entry["thumb"] for entry in shown})
    assert any(entry["start"] > 0 for entry in shown)
    assert all(0 < entry["duration"] <= 2 for entry in shown)


def _short(value: float) -> str:
    text = f"{value:.3f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def _members(gallery: Path) -> Iterator[dict]:
    for path in (gallery / "data").glob("h*/c*.js"):
        content = json.loads(path.read_text("utf-8").split(",", 1)[1].rsplit(")", 1)[0])
        for values in zip(*(content[name] for name in ("path", "media", "thumb", "start", "duration")), strict=True):
            yield dict(zip(("path", "media", "thumb", "start", "duration"), values, strict=True))


def test_a_new_recording_is_cut_as_those_of_the_run(
    run: Path, media: Path, tmp_path: Path, events: list[list[Event]]
) -> None:
    events_of_new = generate_long(tmp_path / "new.mp4", seed=9, length_s=20, event_s=(4, 8))
    out = tmp_path / "assigned"
    assert assign.main([str(run), str(tmp_path / "new.mp4"), "--out", str(out), "--workers", "0"]) == 0
    rows = list(csv.DictReader((out / "assignments.csv").open(encoding="utf-8", newline="")))
    starts_s = [float(row["start_s"]) for row in rows]
    assert starts_s == [2.0 * n for n in range(len(rows))] and len(rows) == int(events_of_new[-1].end_s - 1) // 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "files"])
def test_prepared_pieces_are_the_same_clips(
    run: Path, usual: list[str], media: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "prepared"
    words = ["--format", kind, "--size", "32", "--sample-rate", "8000", "--cut-s", "2", "--workers", "1"]
    assert prepare.main([str(media), str(out), *words, "--cache-dir", str(tmp_path / "cache")]) == 0
    manifest = read_manifest(out / "manifest.parquet")
    assert manifest["id"].to_pylist() == read_manifest(RunFolder(run).manifest)["id"].to_pylist()
    folder = tmp_path / "run"
    assert train.main([*usual, f"data.root={out}", f"run_dir={folder}"]) == 0
    assert len(labels(folder)) == len(labels(run))


def test_a_timeline_covers_a_new_recording(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the segments are worth is a matter of the training; here is no more than that they are whole."""
    events_of_new = generate_long(tmp_path / "new.mp4", seed=9, length_s=20, event_s=(4, 8))
    out = tmp_path / "assigned"
    words = [str(run), str(tmp_path / "new.mp4"), "--out", str(out), "--workers", "0", "--timeline"]
    assert assign.main([*words, "--stride-s", "1"]) == 0
    with (out / "timeline.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {"new.mp4"} and rows[0]["start_s"] == "0.000"
    assert float(rows[-1]["end_s"]) == pytest.approx(events_of_new[-1].end_s, abs=1.0)
    for one, following in pairwise(rows):
        assert one["end_s"] == following["start_s"] and one["cluster"] != following["cluster"]
    assert (out / "timeline" / "new.mp4.vtt").read_text(encoding="utf-8").startswith("WEBVTT\n\n00:00:00.000 --> ")
    page = out / "timeline" / "new.mp4.html"
    assert f"look at   {page}" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8").count("new.mp4") > 1
    assert {file.suffix for file in (out / "timeline" / "media").iterdir()} == {".jpg"}
    assert assign.main([*words, "--stride-s", "2"]) == 2
    assert "timeline was [2.0, 1.0], now [2.0, 2.0]" in capsys.readouterr().err
    for wrong, expected in (
        (["--stride-s", "1"], "--stride-s 1 needs --timeline"),
        (["--timeline", "--head", "all"], "--timeline is of one head"),
        (["--timeline", "--piece-s", "0.5"], "--piece-s must be at least data.clip_s=1 of the run, got 0.5"),
    ):
        assert assign.main([str(run), str(tmp_path / "new.mp4"), *wrong]) == 2
        assert expected in capsys.readouterr().err
