import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selavi.results.gallery.data import encode, write_call
from tests.selavi.results.gallery.synthetic_gallery import HOSTILE, synthetic_clips, write_synthetic_gallery


def read_call(path: Path) -> tuple[str, list[Any]]:
    """What a script calls, and with what: it is nothing but one call with JSON."""
    text = path.read_text(encoding="ascii")
    match = re.fullmatch(r"(selavi\.\w+)\((.*)\);\n", text)
    assert match and not set("<>&") & set(text), path
    return match[1], json.loads(f"[{match[2]}]")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 clips with hostile names, two of whose clusters have more than one part."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_gallery(folder, 3000, 2, hostile=True)
    return folder


def test_what_a_name_holds_stays_in_its_string(tmp_path: Path) -> None:
    assert encode("</script>&\u2028é🎺\x07") == '"\\u003c/script\\u003e\\u0026\\u2028\\u00e9\\ud83c\\udfba\\u0007"'
    file = write_call(tmp_path / "a.js", "selavi.ids", 3, {name: name for name in HOSTILE})
    assert read_call(file) == ("selavi.ids", [3, {name: name for name in HOSTILE}])
    with pytest.raises(ValueError, match="JSON compliant"):
        encode([float("nan")])


def test_every_file_is_a_call_of_its_own_function(gallery: Path) -> None:
    expected = {name: name for name in ("index", "map", "ids", "labels", "clips", "queue", "pairs", "cross", "colours")}
    expected |= {"c0": "members", "c1": "members"}
    files = sorted((gallery / "data").rglob("*.js"))
    assert {file.parent.name for file in files} == {"data", "h0", "h1"}
    for file in files:
        assert read_call(file)[0] == f"selavi.{expected[file.stem.split('-')[0]]}"


def test_members_come_in_parts_in_the_order_of_confidence(gallery: Path) -> None:
    clips, heads, _ = synthetic_clips(3000, 2, hostile=True)
    index = read_call(gallery / "data" / "index.js")[1][0]
    (told,) = [cluster for cluster in index["heads"][0]["clusters"] if cluster["cluster"] == 0]
    members: dict[str, list[Any]] = {}
    for part in range(told["parts"]):
        name, content = read_call(gallery / "data" / "h0" / f"c0{f'-{part}' if part else ''}.js")[1]
        assert (name, content["part"]) == ("h0/c0", part)
        assert len(content["id"]) == min(1000, told["size"] - 1000 * part)
        for column, values in content.items():
            if column not in ("part", "rows", "extra"):
                members.setdefault(column, []).extend(values)
    chosen = np.flatnonzero(heads[0].cluster == 0)
    chosen = chosen[np.argsort(-heads[0].confidence[chosen], kind="stable")]
    assert members["id"] == clips["id"].take(pa.array(chosen)).to_pylist()
    assert members["label"] == clips["label"].take(pa.array(chosen)).to_pylist()
    assert members["margin"] == pytest.approx(heads[0].margin[chosen].tolist(), abs=5.1e-4)
    unknown = [value is None for value in members["agreement"]]
    assert unknown == np.isnan(heads[0].agreement[chosen]).tolist() and any(unknown)


def test_rows_point_at_members_or_at_the_extra_ones(gallery: Path) -> None:
    content = read_call(gallery / "data" / "h0" / "c0.js")[1][1]
    others = [read_call(file)[1][1] for file in sorted((gallery / "data" / "h0").glob("c0-*.js"))]
    everyone = [*content["id"], *(clip for part in others for clip in part["id"])]
    assert content["rows"]["typical"] == list(range(12))
    shown = [at for row in content["rows"].values() for at in row]
    assert len(shown) == len(set(shown)) == 24
    far = [at for at in shown if at >= 1000]
    assert far and sorted(far) == list(range(1000, 1000 + len(content["extra"]["id"])))
    assert set(content["extra"]["id"]) <= set(everyone[1000:])
    margins = dict(zip(everyone, content["margin"] + [m for part in others for m in part["margin"]], strict=True))
    ids = [*content["id"], *content["extra"]["id"]]
    border = [margins[ids[at]] for at in content["rows"]["borderline"]]
    assert border == sorted(margins[clip] for clip in everyone[12:])[:6]


def test_index_ids_labels_and_map_agree(gallery: Path) -> None:
    clips, heads, _ = synthetic_clips(3000, 2, hostile=True)
    index = read_call(gallery / "data" / "index.js")[1][0]
    assert index["format"] == 1 and re.fullmatch("[0-9a-f]{16}", index["key"])
    assert (index["numClips"], index["chosenHead"], index["hasMap"], index["labelled"]) == (3000, 0, True, True)
    for head, told in zip(heads, index["heads"], strict=True):
        sizes = {cluster["cluster"]: cluster["size"] for cluster in told["clusters"]}
        assert sizes == {number: int((head.cluster == number).sum()) for number in (0, 1)}
    part, ids = read_call(gallery / "data" / "ids-0.js")[1]
    assert part == 0 and ids["id"] == clips["id"].to_pylist() and ids["h1"] == heads[1].cluster.tolist()
    name, labels = read_call(gallery / "data" / "labels-h1.js")[1]
    assert name == "h1" and sum(count for _, _, count in labels["counts"]) == 3000 - clips["label"].null_count
    drawn = read_call(gallery / "data" / "map.js")[1][0]
    columns = {name: np.frombuffer(base64.b64decode(drawn[name]), "<u2") for name in ("x", "y")}
    assert drawn["shown"] == drawn["of"] == len(columns["x"]) == len(columns["y"]) == 3000
    clusters = np.frombuffer(base64.b64decode(drawn["cluster"]["h0"]), "<i4")
    assert clusters.tolist() == heads[0].cluster.tolist()
    spread = max(int(values.max()) - int(values.min()) for values in columns.values())
    assert spread == 65_535


def test_what_an_earlier_gallery_left_is_removed(tmp_path: Path) -> None:
    write_synthetic_gallery(tmp_path, 50, 4, num_heads=2, thumbnails=True)
    before = set(tmp_path.rglob("*"))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data" / "notes.txt").write_text("mine")
    report = write_synthetic_gallery(tmp_path, 40, 4, num_heads=1, thumbnails=True)
    after = {path for path in tmp_path.rglob("*") if path.name != "notes.txt"}
    assert after < before and not (tmp_path / "data" / "h1").exists() and report.removed > 0
    assert len(list((tmp_path / "thumbs").rglob("*.jpg"))) == 40
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "data" / "notes.txt").exists()
