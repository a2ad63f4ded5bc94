"""`selavi localise`: maps beside boxes and priors, boxes as a table and for tools; faults say what to change."""

import json
import math
import re
import shutil
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.clips import judge_for
from datamodules.index.annotations import read_annotations
from datamodules.index.scan import scan
from datamodules.stores.opening import open_prepared
from datamodules.stores.prepare import PrepareSettings, prepare
from selavi.commands.localise import MAPS, OWN, LocaliseArguments, localise, verdict
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.results.boxes import BOX_SCHEMA
from selavi.results.labels import read_labels
from selavi.scores.boxes import Localisation
from tests.selavi.results.gallery.test_data import read_call
from tools import export_clusters as export_tool
from tools import localise as tool

PRIORS = ["another clip's map", "whole picture", "centre disc", "frame difference", "colour contrast"]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


def boxes_of(run: Path, lines: list[str], tmp_path: Path) -> Path:
    """A table with these lines, in which {0}, {1} ... are clips of the run."""
    ids = sorted(read_labels(run, "train").ids.to_pylist())
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["id,time_s,x,y,w,h", *(line.format(*ids) for line in lines)]) + "\n")
    return path


def test_the_whole_picture_is_pointed_at_by_everything(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [f"{{{number}}},1.0,0,0,1,1" for number in range(5)]
    table = boxes_of(run, [*whole, "{0},0.2,0,0,1,1", "nobody.mp4,0,0,0,1,1", "{5},0,2,2,1,1"], tmp_path)
    assert tool.main([str(run), "--annotations", str(table), "--head", "1"]) == 0
    printed, told = capsys.readouterr()
    record = json.loads((run / "localise" / "train-h1-contrast.json").read_text())
    assert list(record["figures"]) == [OWN, *PRIORS]
    for figures in record["figures"].values():
        assert figures["num_pictures"] == 6
        assert figures["pointing"] == figures["mean_iou"] == figures["success"] == 1
    assert "no difference beyond chance" in printed and "6 annotated pictures" in printed
    assert "1 of 8 annotated pictures are of no labelled clip" in told
    assert "1 boxes have no area in their picture" in told and "1 have nothing marked" in told


def test_a_map_is_scored_at_its_own_clip(run: Path, tmp_path: Path) -> None:
    lines = [f"{{{number}}},1.0,0.5,0.5,0.3,0.4" for number in range(4)]
    result = localise(LocaliseArguments(run, boxes_of(run, lines, tmp_path)))
    assert result.measured is not None and result.boxes is None
    figures = result.measured.figures
    area = figures["whole picture"].pixel_precision
    assert area == pytest.approx(0.3 * 0.4, abs=0.02)
    assert all(0 <= row.mean_iou < 1 and row.num_pictures == 4 for row in figures.values())


def test_clips_that_are_not_there_are_an_error_that_names_some(run: Path, tmp_path: Path) -> None:
    table = boxes_of(run, ["nobody.mp4,0,0,0,1,1"], tmp_path)
    with pytest.raises(UsageError, match=r"'nobody\.mp4', and none is among the \d+ labelled ones"):
        localise(LocaliseArguments(run, table))


@pytest.mark.parametrize(
    ("own", "prior", "said"),
    [(0.9, 0.5, "better than anything"), (0.2, 0.6, "do not use the maps"), (0.5, 0.52, "beyond chance")],
)
def test_the_verdict_compares_with_the_best_prior(own: float, prior: float, said: str) -> None:
    def row(pointing: float) -> Localisation:
        return Localisation(100, 0.3, 0.3, 0.3, pointing, 0.3)

    text = verdict({OWN: row(own), "centre disc": row(prior), "whole picture": row(0.1)})
    assert said in text and "centre disc" in text


def test_boxes_of_all_clips_lie_in_their_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(run), "--head", "1"]) == 0
    printed, _ = capsys.readouterr()
    assert "nobody has measured whether these maps point" in printed
    table = pq.read_table(run / "localise" / "train-h1.parquet")
    assert table.schema.equals(BOX_SCHEMA)
    clusters = read_labels(run, "train").cluster_of(1)
    rows = table.to_pylist()
    assert f"{len(rows)} boxes in {len(clusters)} clips" in printed
    assert rows and {row["id"] for row in rows} <= set(clusters)
    for row in rows:
        assert (row["width"], row["height"]) == (64, 64) and row["cluster"] == clusters[row["id"]]
        assert 0 <= row["x0"] < row["x1"] <= 64 and 0 <= row["y0"] < row["y1"] <= 64
        assert 0 < row["score"] <= 1 and row["peak"] > 0
        assert math.isfinite(row["sounding"])
    assert len({row["sounding"] for row in rows}) > 1
    times = [row["time_s"] for row in rows if row["id"] == rows[0]["id"]]
    assert times == sorted(set(times)) and len(times) <= 4


def test_boxes_are_handed_over_with_names_and_what_was_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotated = boxes_of(run, [f"{{{number}}},1.0,0.2,0.2,0.5,0.5" for number in range(4)], tmp_path)
    clusters = read_labels(run, "train").cluster_of(0)
    labels = [{"id": clip_id, "cluster": clusters[clip_id]} for clip_id in sorted(clusters)]
    first, second, third = labels[:3]
    others = {row["cluster"] for row in labels} - {first["cluster"]}
    (run / "names.csv").write_text(
        "head,cluster,id,name,into,rejected\n"
        f"0,{first['cluster']},,a ball,,\n"
        f"0,{second['cluster']},{second['id']},,,1\n"
        f"0,{third['cluster']},{third['id']},,{max(others) + 100},\n"
    )
    clips = [row["id"] for row in (first, second, third)]
    words = [str(run), *clips, "--head", "0", "--annotations", str(annotated), "--to", "coco", "yolo"]
    assert tool.main(words) == 0
    printed, told = capsys.readouterr()
    assert "1 rejected clips are left out" in told and "1 clips that a person moved" in told
    assert "measured on 4 annotated pictures of split train: the maps point into a box" in printed
    out = run / "localise" / "handover"
    assert "Measured on 4 annotated pictures" in (out / "README.txt").read_text()
    content = json.loads((out / "coco" / "annotations.json").read_text())
    assert [entry["name"] for entry in content["categories"]] == ["a ball"]
    assert {entry["clip_id"] for entry in content["images"]} == {first["id"]}
    for image in content["images"]:
        with Image.open(out / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 64)
    table = pq.read_table(run / "localise" / "train-h0.parquet").to_pylist()
    assert [row["name"] for row in table] == ["a ball"] * len(table)
    assert [[row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]] for row in table] == [
        pytest.approx(entry["bbox"], abs=1e-5) for entry in content["annotations"]
    ]
    assert len(read_annotations(out / "coco" / "annotations.json", "coco").rows) == len(table)


def test_what_is_heard_is_for_the_cluster_that_was_labelled(run: Path) -> None:
    """A cluster that is merged into one that the model never had sounds as it did before."""
    clip, cluster = min(read_labels(run, "train").cluster_of(0).items())
    path = run / "localise" / "train-h0.parquet"
    tables = []
    for names in ("", f"0,{cluster},,,500,\n"):
        (run / "names.csv").write_text("head,cluster,id,name,into,rejected\n" + names)
        assert tool.main([str(run), clip, "--head", "0", "--segments", "2"]) == 0
        tables.append(pq.read_table(path))
    assert set(tables[1]["cluster"].to_pylist()) == {500}
    for name in ("sounding", "segment", "x0"):
        assert tables[0][name].to_pylist() == tables[1][name].to_pylist()


def test_segments_are_the_same_again_and_no_more_than_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = sorted(read_labels(run, "train").ids.to_pylist())[:3]
    path = run / "localise" / "train-h0.parquet"
    segments = []
    for _ in range(2):
        assert tool.main([str(run), *clips, "--head", "0", "--segments", "3"]) == 0
        segments.append(pq.read_table(path)["segment"].to_pylist())
    assert segments[0] == segments[1]
    sizes = [segments[0].count(number) for number in range(3)]
    assert sizes == sorted(sizes, reverse=True) and min(sizes) > 0 and sum(sizes) == len(segments[0])
    capsys.readouterr()
    assert tool.main([str(run), *clips, "--head", "0", "--segments", "13"]) == 2
    assert f"13 segments of {len(segments[0])} pictures with evidence" in capsys.readouterr().err
    assert pq.read_table(path)["segment"].to_pylist() == segments[0]
    assert tool.main([str(run), *clips, "--head", "0"]) == 0
    assert "segment" not in pq.read_table(path).column_names


def test_the_gallery_shows_the_boxes_that_are_still_of_the_run(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    def shown() -> list[object]:
        assert export_tool.main([str(run), "--head", "0", "--map", "none", "--evidence", "0"]) == 0
        files = sorted((run / "gallery" / "data" / "h0").glob("c*.js"))
        return [boxes for path in files for boxes in read_call(path)[1][1].get("boxes", []) if boxes]

    assert shown() == []
    clips = sorted(read_labels(run, "train").ids.to_pylist())[:3]
    path = run / "localise" / "train-h0.parquet"
    for maps in ("windows", "evidence", "contrast"):
        assert tool.main([str(run), *clips, "--head", "0", "--maps", maps]) == 0
        table = pq.read_table(path)
        caplog.clear()
        assert len(shown()) == len(set(table["id"].to_pylist())) > 0 and "boxes" not in caplog.text
        assert read_call(run / "gallery" / "data" / "index.js")[1][0]["boxMaps"] == maps
    old = table.drop_columns(["sounding", "maps"]).replace_schema_metadata(None)  # as earlier versions wrote them
    other = pa.array([100, *table["cluster"].to_pylist()[1:]], pa.int32())
    pq.write_table(old.set_column(old.schema.get_field_index("cluster"), "cluster", other), path)
    assert len(shown()) == 3 and f"1 of {len(table)} boxes" in caplog.text
    assert "--head 0 --maps evidence\n" in caplog.text  # the only maps that those had
    caplog.clear()
    pq.write_table(table.replace_schema_metadata({"selavi_key": "another checkpoint"}), path)
    assert shown() == [] and f"{len(table)} of {len(table)} boxes" in caplog.text
    assert "--head 0\n" in caplog.text and "--maps" not in caplog.text


def test_boxes_of_another_checkpoint_are_written_again_as_they_were(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = sorted(read_labels(run, "train").ids.to_pylist())[:3]
    assert tool.main([str(run), *clips, "--head", "0", "--maps", "windows", "--segments", "3"]) == 0
    path = run / "localise" / "train-h0.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"selavi_key": "another checkpoint"}), path)
    assert export_tool.main([str(run), "--head", "0", "--map", "none", "--evidence", "0"]) == 0
    assert re.search(r"write it again: .*--split train --head 0 --maps windows --segments 3$", caplog.text, re.M)


def page_says(run: Path, maps: str) -> tuple[str, str]:
    """What the gallery says of maps in its pictures, and the name of an overlay."""
    words = ["--head", "0", "--map", "none", "--evidence", "1", "--clips", "2", "--maps", maps]
    assert export_tool.main([str(run), *words]) == 0
    index = read_call(run / "gallery" / "data" / "index.js")[1][0]
    assert index["maps"] == maps
    return index["worth"], next((run / "gallery" / "evidence").iterdir()).name


def test_each_kind_has_its_own_maps(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Boxes say which maps they are of, and what was measured of one kind is not said of another."""
    clips = sorted(read_labels(run, "train").ids.to_pylist())[:4]
    annotated = boxes_of(run, [f"{{{number}}},1.0,0.2,0.2,0.5,0.5" for number in range(4)], tmp_path)
    words = [str(run), *clips, "--head", "0", "--segments", "2"]
    stored = {maps: run / maps / "train-h0.parquet" for maps in MAPS}
    tables = {}
    for maps, path in stored.items():
        capsys.readouterr()
        assert tool.main([*words, "--maps", maps]) == 0
        printed = capsys.readouterr().out
        assert f"head 0, by {maps}" in printed and "nobody has measured whether these maps" in printed
        tables[maps] = pq.read_table(run / "localise" / "train-h0.parquet").to_pylist()
        assert {row["maps"] for row in tables[maps]} == {maps}
        assert tool.main([*words, "--maps", maps, "--annotations", str(annotated)]) == 0
        assert f"{maps} of head 0 in 4 annotated pictures" in capsys.readouterr().out
        assert pq.read_table(path).num_rows == 4
    assert (run / "localise" / "train-h0.json").exists() and (run / "localise" / "train-h0-windows.json").exists()
    boxes = [[row["x0"] for row in table] for table in tables.values()]
    assert all(one != other for one, other in combinations(boxes, 2))
    assert page_says(run, "contrast")[0].startswith("measured on 4 annotated pictures of split train: the maps point")
    assert len({page_says(run, maps) for maps in ("contrast", "evidence")}) == 2
    both = [{(row["id"], row["time_s"]): row["sounding"] for row in table} for table in tables.values()]
    shared = both[0].keys() & both[1].keys()
    assert shared and all(both[0][key] == pytest.approx(both[1][key], abs=1e-4) for key in shared)
    windows = pq.read_table(stored["windows"])
    assert windows["audio"].null_count == len(windows)
    shutil.copy(stored["evidence"], stored["windows"])  # maps of another kind are not taken for windows
    assert tool.main([*words, "--maps", "windows"]) == 0
    assert pq.read_table(stored["windows"]).equals(windows)
    assert pq.read_table(run / "localise" / "train-h0.parquet").to_pylist() == tables["windows"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--maps", "heat"], "--maps heat: there is no such kind; there are evidence, windows, contrast, heard"),
        (["--segments", "1"], "--segments 1: expected 2 or more"),
        (["nobody.mp4"], r"1 of 1 clips, such as 'nobody\.mp4', are not among the \d+ labelled ones of split train"),
        (["--to", "voc"], "--to voc: expected some of coco, yolo, cvat, labelstudio, fiftyone"),
        (["--split", "elsewhere"], "no file in split 'elsewhere'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(run), *words]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (run / "localise").exists()


def test_pictures_come_from_shards_too(run: Path, demo_set: Path, cache_dir: Path, tmp_path: Path) -> None:
    """The run as if it had been trained on shards, whose pictures are half as large as those of the recordings."""
    shards = tmp_path / "shards"
    prepare(scan(demo_set, cache_dir, 1), shards, PrepareSettings("shards", 32, 0, 0, 8000, 95, 256), workers=1)
    settings = run / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace(f"root: {demo_set}", f"root: {shards}"))
    opened = open_prepared(load_config(settings))
    assert opened is not None
    pq.write_table(judge_for(load_config(settings), opened[0]), run / "manifest.parquet")
    clips = sorted(read_labels(run, "train").ids.to_pylist())[:2]
    assert tool.main([str(run), *clips, "--head", "0", "--to", "labelstudio"]) == 0
    out = run / "localise" / "handover"
    tasks = json.loads((out / "labelstudio" / "tasks.json").read_text())
    rows = pq.read_table(run / "localise" / "train-h0.parquet").to_pylist()
    assert [task["data"]["id"] for task in tasks] == [row["id"] for row in rows]
    for task, row in zip(tasks, rows, strict=True):
        [result] = task["predictions"][0]["result"]
        with Image.open(out / task["data"]["image"].split("=", 1)[1]) as picture:
            assert picture.size == (result["original_width"], result["original_height"]) == (32, 32)
        assert result["value"]["x"] == pytest.approx(100 * row["x0"] / row["width"], abs=1e-3)


def test_a_hand_over_does_not_follow_a_link_out_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (run / "localise").mkdir()
    (run / "localise" / "handover").symlink_to(mine)
    assert tool.main([str(run), "--to", "coco"]) == 2
    assert "is a link out of the run folder" in capsys.readouterr().err
    assert not list(mine.iterdir())
