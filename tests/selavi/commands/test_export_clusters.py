import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selavi.atomic import hold
from selavi.media import playable, probe
from selavi.tensor_files import read_tensors
from tests.selavi.results.gallery.test_data import read_call
from tools import cluster_eval, export_clusters, prepare


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def index_of(run_dir: Path) -> dict[str, Any]:
    return read_call(run_dir / "gallery" / "data" / "index.js")[1][0]


def test_a_run_becomes_tables_and_a_gallery(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export_clusters.main([str(run_dir)]) == 0
    told = capfd.readouterr().err
    assert f"page:  {run_dir}/gallery/index.html" in told and f"table: {run_dir}/clusters.parquet" in told
    assert "thumbnails: 32 made, 0 kept from before" in told
    index = index_of(run_dir)
    assert (index["title"], index["split"], index["numClips"]) == ("run, train", "train", 32)
    assert [head["head"] for head in index["heads"]] == [0, 1] and index["labelled"] and index["hasMap"]
    chosen = next(head for head in index["heads"] if head["head"] == index["chosenHead"])
    table = pq.read_table(run_dir / "clusters.parquet")
    assert {c["cluster"]: c["size"] for c in chosen["clusters"]} == {
        entry["values"]: entry["counts"] for entry in table["cluster"].value_counts().to_pylist()
    }
    for cluster in chosen["clusters"]:
        _, content = read_call(run_dir / "gallery" / "data" / f"h{chosen['head']}" / f"c{cluster['cluster']}.js")[1]
        rows = table.filter(table["cluster"].to_numpy() == cluster["cluster"])
        assert content["id"] == rows["id"].to_pylist() and all(content["thumb"]) and all(content["playable"])
        for url in content["media"]:
            assert (run_dir / "gallery" / url).is_file()
        assert len(cluster["nearest"]) == min(6, len(chosen["clusters"]) - 1)
    features, _ = read_tensors(run_dir / "eval" / "features" / "train.safetensors")
    assert {name: len(values) for name, values in features.items()} == {"video": 32, "audio": 32}

    assert export_clusters.main([str(run_dir), "--map", "tsne"]) == 0
    told = capfd.readouterr().err
    assert "thumbnails: 0 made, 32 kept from before" in told and "encoding" not in told
    assert read_call(run_dir / "gallery" / "data" / "map.js")[1][0]["method"] == "t-SNE"


def test_figures_of_another_split_are_shown(run_dir: Path) -> None:
    assert cluster_eval.main([str(run_dir), "--split", "test"]) == 0
    assert (
        export_clusters.main([str(run_dir), "--split", "test", "--head", "1", "--map", "none", "--clips", "all"]) == 0
    )
    index = index_of(run_dir)
    figures = json.loads((run_dir / "eval" / "metrics_test.json").read_text())["heads"][1]
    assert index["figures"][0] == ["NMI", f"{figures['nmi']:.3f}"] and index["chosenHead"] == 1
    assert not index["hasMap"] and "--map none" in index["noMap"] and index["heads"][0]["clusters"][0]["nearest"] == []
    assert not (run_dir / "eval" / "features").exists()


@pytest.mark.slow
def test_prepared_clips_have_pictures_and_can_be_played(
    run_dir: Path, demo_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    assert prepare.main([str(demo_set), str(shards), "--size", "64", "--sample-rate", "8000", "--workers", "1"]) == 0
    manifest = pq.read_table(run_dir / "manifest.parquet")
    pq.write_table(manifest.replace_schema_metadata({"root": str(tmp_path / "gone")}), run_dir / "manifest.parquet")
    settings = run_dir / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace(f"root: {demo_set}", f"root: {shards}"))
    assert export_clusters.main([str(run_dir)]) == 0
    index = index_of(run_dir)
    assert index["hasMap"] and "nothing plays. Export again with --media transcode" in index["mediaWarning"]
    capfd.readouterr()
    assert export_clusters.main([str(run_dir), "--media", "transcode", "--map", "none"]) == 0
    assert "0 made, 32 kept from before" in capfd.readouterr().err
    index = index_of(run_dir)
    assert index["mediaWarning"] is None
    cluster = index["heads"][0]["clusters"][0]["cluster"]
    content = read_call(run_dir / "gallery" / "data" / "h0" / f"c{cluster}.js")[1][1]
    assert all(content["playable"]) and all(content["thumb"])
    for url, path in zip(content["media"], content["path"], strict=True):
        assert playable(run_dir / "gallery" / url) is None
        written, original = probe(run_dir / "gallery" / url), probe(demo_set / path)
        assert written.duration_s == pytest.approx(original.duration_s, abs=0.1)
        assert written.audio_s == pytest.approx(original.audio_s, abs=0.2) and written.audio_state == "ok"
    with Image.open(run_dir / "gallery" / content["thumb"][0]) as picture:
        assert np.asarray(picture)[:120].std() > 5 and np.asarray(picture)[-40:].std() > 5


def test_one_export_at_a_time(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock = hold(run_dir / ".export.lock")
    assert lock is not None
    with lock:
        assert export_clusters.main([str(run_dir)]) == 2
    assert f"another process exports {run_dir}" in capfd.readouterr().err
    assert not (run_dir / "gallery").exists()


@pytest.mark.slow
def test_an_export_that_was_killed_goes_on(run_dir: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, str(root / "tools" / "export_clusters.py"), str(run_dir), "--map", "none"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    thumbs = run_dir / "gallery" / "thumbs"
    until_s = time.monotonic() + 120
    while not list(thumbs.rglob("*.jpg")) and time.monotonic() < until_s:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in thumbs.rglob("[!.]*.jpg")}
    assert there and not (run_dir / "gallery" / "index.html").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert f"thumbnails: {32 - len(there)} made, {len(there)} kept from before" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert not list(run_dir.rglob("*.tmp"))


@pytest.mark.slow
def test_names_go_round(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [str(run_dir), "--head", "0", "--map", "none"]
    assert export_clusters.main(command) == 0
    assert f"export_clusters.py {run_dir} --names names.csv" in capfd.readouterr().err
    before = pq.read_table(run_dir / "clusters.parquet")
    one, other, *_ = sorted(set(before["cluster"].to_pylist()))
    names = tmp_path / "names.csv"
    name = '=dogs, "big" <b>'
    quoted = name.replace('"', '""')
    names.write_text(f'head,cluster,id,name,into,rejected\n0,{one},,"{quoted}",,\n0,{other},,,{one},\n')
    key = index_of(run_dir)["key"]
    assert export_clusters.main([*command, "--names", str(names)]) == 0
    after = pq.read_table(run_dir / "clusters.parquet")
    merged = before.filter(np.isin(before["cluster"].to_numpy(), [one, other]))
    named = after.filter(after["cluster"].to_numpy() == one)
    assert sorted(named["id"].to_pylist()) == sorted(merged["id"].to_pylist())
    assert set(named["name"].to_pylist()) == {name}
    index = index_of(run_dir)
    assert index["key"] == key and [row["into"] for row in index["names"]] == [None, one]
    assert other in [cluster["cluster"] for cluster in index["heads"][0]["clusters"]]  # edits lie over the originals

    assert export_clusters.main([*command, "--spreadsheet-safe"]) == 0  # the names stay
    assert pq.read_table(run_dir / "clusters.parquet") == after
    assert "'=dogs" in (run_dir / "clusters.csv").read_text()
    names.write_text("head,cluster,name\n0,1,cats\n")
    assert export_clusters.main([*command, "--names", str(names)]) == 0
    assert name.replace('"', '""') in (run_dir / "names.1.csv").read_text()
    names.write_text("head,cluster,name\n0,one,cats\n")
    kept = (run_dir / "names.csv").read_bytes()
    assert export_clusters.main([*command, "--names", str(names)]) == 2
    assert "line 2, column cluster" in capfd.readouterr().err and (run_dir / "names.csv").read_bytes() == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "0"], "--clips must be at least 1, or `all`, got 0"),
        (["--clips", "some"], "--clips must be at least 1, or `all`, got some"),
        (["--head", "best"], "--head must be `chosen`, `all` or a number, got 'best'"),
        (["--head", "7"], "expected one of the heads [0, 1], got 7"),
    ],
)
def test_wrong_arguments(run_dir: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert export_clusters.main([str(run_dir), *arguments]) == 2
    assert message in capfd.readouterr().err
    assert not (run_dir / "gallery").exists()


def test_it_hands_over_and_explains(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export_clusters.main([str(run_dir), "--to", "features", "labelstudio", "--map", "none"]) == 0
    told = capfd.readouterr().err
    assert f"see {run_dir / 'handover' / 'README.txt'}" in told
    assert {path.name for path in (run_dir / "handover").iterdir()} >= {"features", "labelstudio", "README.txt"}
    index = index_of(run_dir)
    assert index["hasEvidence"] and not index["hasMap"]
    chosen = next(head for head in index["heads"] if head["head"] == index["chosenHead"])
    opacity = []
    for cluster in chosen["clusters"]:
        content = read_call(run_dir / "gallery" / "data" / f"h{chosen['head']}" / f"c{cluster['cluster']}.js")[1][1]
        explained = [url for url in content["evidence"] if url]
        assert explained == content["evidence"][: min(4, cluster["size"])]
        for url, thumb in zip(content["evidence"], content["thumb"], strict=True):
            if url:
                with Image.open(run_dir / "gallery" / url) as overlay, Image.open(run_dir / "gallery" / thumb) as strip:
                    assert overlay.size == strip.size
                    opacity.append(int(np.asarray(overlay)[..., 3].max()))
    assert max(opacity) > 150 and 0 < min(opacity) < max(opacity)  # weak evidence looks weak
    assert export_clusters.main([str(run_dir), "--to", "nothing"]) == 2
    assert "--to nothing: expected some of fiftyone, videofolder" in capfd.readouterr().err
