"""What hand_over and hand_over_boxes write, opened by the tools themselves.

The tools need hundreds of megabytes and contradict each other's requirements, so none is among ours: each test runs
its script with the Python of an environment that has the tool, and is skipped without one.  To run them all:

    for tool in datasets renumics-spotlight label-studio-sdk embedding-atlas; do
        python -m venv envs/$tool && envs/$tool/bin/pip install $tool; done
    python -m venv envs/cvat && envs/cvat/bin/pip install cvat-sdk datumaro
    python -m venv envs/fiftyone && envs/fiftyone/bin/pip install fiftyone mongomock
    python -m venv envs/coco && envs/coco/bin/pip install pycocotools

    SELAVI_PYTHON_DATASETS=envs/datasets/bin/python SELAVI_PYTHON_FIFTYONE=... SELAVI_PYTHON_SPOTLIGHT=... \\
    SELAVI_PYTHON_LABELSTUDIO=... SELAVI_PYTHON_ATLAS=... SELAVI_PYTHON_CVAT=... SELAVI_PYTHON_COCO=... \\
    pytest tests/selavi/test_handover_tools.py

FiftyOne keeps its datasets in MongoDB; the script puts mongomock in its place, so it needs no server.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selavi.media import encode_clip
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.handover import FORMATS, hand_over
from selavi.results.handover.boxes import BOX_FORMATS, BoxedPicture, hand_over_boxes
from selavi.results.handover.folder import Folder

IDS = ["dogs/-a.mp4", "dogs/b \"'<i>&.mp4", "\u202ec,\nd%20.mp4", "bells/e.mp4"]
CLASSES = ['Hund "1" <b>&', 'Hund "1" <b>&', "cluster 001", "=bell, 'small'"]
FEATURES = np.array([[1, 2, 0], [3, 1, 0], [0, 5, 1], [2, 2, 2]], np.float32)


MOCKED_DATABASE = """import json, os, sys
os.environ.update(FIFTYONE_DATABASE_URI="mongodb://localhost", FIFTYONE_DISABLE_SERVICES="1")
import mongomock, mongoengine.connection, pymongo

class Client(mongomock.MongoClient):
    _closed = False
    _everywhere = mongomock.store.ServerStore()
    def __init__(self, *_, **__):
        super().__init__(_store=self._everywhere)
    def server_info(self, *_, **__):
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}

pymongo.MongoClient = mongoengine.connection.MongoClient = Client
"""
"""What a script begins with that imports FiftyOne."""


def run(variable: str, script: str, *arguments: Any, cwd: Path) -> Any:
    """Run a script in the tool's environment; returns what it prints as JSON on its last line."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python that has the tool; this file's docstring tells how to make one")
    home = cwd / "home"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "FIFTYONE_DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [Path(python).absolute(), "-c", script, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout.splitlines()[-1])  # versions: pytest -rP shows them
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, moving_square: np.ndarray, chirp: np.ndarray) -> Path:
    """Every format of four clips and a rejected one."""
    root = tmp_path_factory.mktemp("media")
    for clip_id in IDS:
        (root / clip_id).parent.mkdir(exist_ok=True)
        encode_clip(root / clip_id, moving_square, chirp, fps=12, sample_rate=8000)
    columns: dict[str, Any] = {
        "id": [*IDS, "rejected.mp4"],
        "path": [*IDS, "rejected.mp4"],
        "start_s": [0.0] * 5,
        "head": [3] * 5,
        "cluster": [0, 0, 1, 12, -1],
        "name": [CLASSES[0], CLASSES[1], None, CLASSES[3], None],
        "confidence": [1.0, 0.75, 0.5, 0.25, 0.125],
        "margin": [0.5] * 5,
        "entropy": [0.25] * 5,
        "rank_in_cluster": [0, 1, 0, 0, 0],
        "modality_agreement": [0.5, None, 0.5, 0.5, None],
        "label": ["dog", "dog", None, "bell", None],
        "end_s": [2.0] * 5,
    }
    table = pa.table(columns, schema=CLUSTER_SCHEMA)
    folder = tmp_path_factory.mktemp("out")
    durations_s = dict.fromkeys(IDS, 3.0)
    hand_over(table, list(FORMATS), folder, media_root=root, durations_s=durations_s, features={"av": (IDS, FEATURES)})
    return folder


def test_fiftyone_imports_the_dataset(out: Path, tmp_path: Path) -> None:
    script = """
import fiftyone
dataset = fiftyone.Dataset.from_dir(sys.argv[1], dataset_type=fiftyone.types.FiftyOneDataset)
samples = [[s.clip_id, s.filepath, s.prediction.label, s.prediction.confidence, s.label and s.label.label, s.cluster,
            s.duration_s, s.name, s.media_type] for s in dataset]
print(json.dumps({"version": fiftyone.__version__, "classes": dataset.default_classes, "samples": samples}))
"""
    found = run("SELAVI_PYTHON_FIFTYONE", MOCKED_DATABASE + script, out / "fiftyone", cwd=tmp_path)
    assert found["classes"] == sorted(set(CLASSES))
    ids, paths, *columns = zip(*found["samples"], strict=True)
    assert list(ids) == IDS and all(Path(path).is_file() for path in paths)
    assert [Path(path).name for path in paths] == [Path(clip_id).name for clip_id in IDS]
    assert list(map(list, columns)) == [
        CLASSES,
        [1.0, 0.75, 0.5, 0.25],
        ["dog", "dog", None, "bell"],
        [0, 0, 1, 12],
        [3.0] * 4,
        [*CLASSES[:2], None, CLASSES[3]],
        ["video"] * 4,
    ]


def test_hugging_face_loads_the_videofolder(out: Path, tmp_path: Path) -> None:
    script = """
import json, sys, datasets
loaded = datasets.load_dataset("videofolder", data_dir=sys.argv[1])
rows = loaded["train"].cast_column("video", datasets.Video(decode=False))
print(json.dumps({"version": datasets.__version__, "splits": list(loaded), "rows": list(rows)}))
"""
    found = run("SELAVI_PYTHON_DATASETS", script, out / "videofolder", cwd=tmp_path)
    assert found["splits"] == ["train"]
    assert [row["id"] for row in found["rows"]] == IDS and [row["class"] for row in found["rows"]] == CLASSES
    assert [row["label"] for row in found["rows"]] == ["dog", "dog", None, "bell"]
    assert all(Path(row["video"]["path"]).is_file() for row in found["rows"])


def test_label_studio_accepts_the_interface_the_tasks_and_the_predictions(out: Path, tmp_path: Path) -> None:
    script = """
import json, sys, importlib.metadata
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1] + "/config.xml", encoding="utf-8").read())
interface.validate()
tasks = json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8"))
predictions = [task.pop("predictions")[0] for task in tasks]
wrong = json.loads(json.dumps(predictions[0]).replace("Hund", "Katze"))
print(json.dumps({
    "version": importlib.metadata.version("label-studio-sdk"),
    "labels": list(interface.get_tag("class").labels),
    "tasks": [bool(interface.validate_task(task)) for task in tasks],
    "predictions": [interface.validate_prediction(prediction, return_errors=True) for prediction in predictions],
    "wrong": interface.validate_prediction(wrong),
}))
"""
    found = run("SELAVI_PYTHON_LABELSTUDIO", script, out / "labelstudio", cwd=tmp_path)
    assert found["labels"] == sorted(set(CLASSES))
    assert found["tasks"] == [True] * 4 and found["predictions"] == [[]] * 4 and found["wrong"] is False


def test_spotlight_reads_the_table_and_plays_the_media(out: Path, tmp_path: Path) -> None:
    script = """
import json, os, sys
from pathlib import Path
os.chdir(sys.argv[1])
from renumics import spotlight
from renumics.spotlight import dtypes
from renumics.spotlight.data_store import DataStore
from renumics.spotlight_plugins.core.pandas_data_source import PandasDataSource
store = DataStore(PandasDataSource(Path("clips.parquet")), user_dtypes={"media": dtypes.video_dtype})
print(json.dumps({
    "version": spotlight.__version__,
    "types": {name: str(store.dtypes[name]) for name in store.column_names},
    "classes": list(store.get_converted_values("class", range(4))),
    "features": [list(map(float, row)) for row in store.get_converted_values("av_features", range(4))],
    "sizes": [len(store.get_converted_value("media", row)) for row in range(4)],
}))
"""
    found = run("SELAVI_PYTHON_SPOTLIGHT", script, out / "spotlight", cwd=tmp_path)
    assert found["types"]["media"] == "Video" and found["types"]["av_features"] == "Embedding"
    assert found["classes"] == CLASSES and found["features"] == FEATURES.tolist()
    assert min(found["sizes"]) > 1000


def test_embedding_atlas_makes_its_page_of_the_table(out: Path, tmp_path: Path) -> None:
    script = """
import json, sys
from embedding_atlas import __version__
from embedding_atlas.cli import main
main([sys.argv[1], "--x", "x", "--y", "y", "--export-application", sys.argv[2]], standalone_mode=False)
metadata = json.load(open(sys.argv[2] + "/data/metadata.json"))
print(json.dumps({"version": __version__, "metadata": metadata}))
"""
    table = out / "embedding-atlas" / "clips.parquet"
    found = run("SELAVI_PYTHON_ATLAS", script, table, tmp_path / "app", cwd=tmp_path)
    text = json.dumps(found["metadata"])
    assert '"x": "x"' in text and '"y": "y"' in text
    rows = pq.read_table(tmp_path / "app" / "data" / "dataset.parquet")
    assert rows["id"].to_pylist() == IDS and rows["class"].to_pylist() == CLASSES
    given = pq.read_table(table)
    assert rows["x"].to_pylist() == given["x"].to_pylist() and len(set(rows["x"].to_pylist())) == 4


def test_cvat_accepts_the_labels_and_the_annotations(out: Path, tmp_path: Path) -> None:
    """The SDK checks the labels as it sends them; datumaro reads the XML beside an image for the tagged frame."""
    script = """
import importlib.metadata, json, pathlib, shutil, sys
import datumaro
from cvat_sdk import models
from PIL import Image
source = pathlib.Path(sys.argv[1])
labels = json.loads((source / "labels.json").read_text())
task = models.TaskWriteRequest(name="clips", labels=[
    models.PatchedLabelRequest(**{**label, "attributes": [models.AttributeRequest(
        **{**attribute, "input_type": models.InputTypeEnum(attribute["input_type"])})
        for attribute in label["attributes"]]}) for label in labels])
found = []
for number, clip in enumerate(json.loads((source / "clips.json").read_text())):
    folder = pathlib.Path(f"task{number}")
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (48, 32)).save(folder / "images" / "frame_000000", "PNG")  # the name that CVAT gives the frame
    shutil.copy(source / clip["annotations"], folder / "annotations.xml")
    dataset = datumaro.Dataset.import_from(str(folder), "cvat")
    names = dataset.categories()[datumaro.AnnotationType.label]
    found += [[item.id, names[tag.label].name, tag.attributes] for item in dataset for tag in item.annotations]
print(json.dumps({
    "versions": [importlib.metadata.version(name) for name in ("cvat-sdk", "datumaro")],
    "labels": [label.name for label in task.labels],
    "tags": found,
}))
"""
    found = run("SELAVI_PYTHON_CVAT", script, out / "cvat", cwd=tmp_path)
    assert found["labels"] == sorted(set(CLASSES))
    assert [tag[1] for tag in found["tags"]] == CLASSES
    assert found["tags"][0] == ["frame_000000", CLASSES[0], {"cluster": "0", "confidence": "1.0"}]


# ---- boxes ----

EDGES = {"a/1.jpg": (8.0, 4.0, 40.0, 36.0), "a/2.jpg": (0.0, 0.0, 64.0, 48.0), "b/ü 1.jpg": (10.5, 3.25, 11.75, 47.0)}
BOX_CLASSES = [CLASSES[0], CLASSES[3], CLASSES[0]]
BOXES = {name: [called, *edges] for (name, edges), called in zip(EDGES.items(), BOX_CLASSES, strict=True)}
"""By picture below images/: class, left, upper, right and lower edge in pixels."""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format of three pictures of 64 x 48 with a box each."""
    path = tmp_path_factory.mktemp("boxes") / "handover"
    pictures = [
        BoxedPicture(IDS[number], number / 3, f"images/{name}", 64, 48, edges, number % 2, called, 0.5, 0.25)
        for number, ((name, edges), called) in enumerate(zip(EDGES.items(), BOX_CLASSES, strict=True))
    ]
    with Folder.opened(path) as folder:
        folder.claim([one.file for one in pictures])
        for one in pictures:
            with folder.file(one.file) as temporary:
                Image.new("RGB", (64, 48)).save(temporary, "JPEG")
        hand_over_boxes(pictures, list(BOX_FORMATS), folder, "3 boxes.")
    return path


def require_boxes(found: dict[str, list[Any]], within: float = 0.01) -> None:
    """Check the classes and edges in pixels that a tool has read, by picture."""
    assert found.keys() == BOXES.keys()
    for name, (called, *edges) in found.items():
        assert [called, *edges] == [BOXES[name][0], *(pytest.approx(edge, abs=within) for edge in BOXES[name][1:])]


def test_fiftyone_imports_the_boxes_of_four_formats(boxes: Path, tmp_path: Path) -> None:
    script = """
import fiftyone
import fiftyone.types as types
handed = sys.argv[1]
line = open(handed + "/README.txt", encoding="utf-8").read().split("in Python: ")[1].splitlines()[0]
fiftyone.launch_app = lambda dataset: None
exec(line)  # as README.txt says
images, read = {"data_path": handed + "/images", "label_field": "boxes"}, fiftyone.Dataset.from_dir
datasets = {
    "fiftyone": dataset,
    "coco": read(dataset_type=types.COCODetectionDataset, labels_path=handed + "/coco/annotations.json", **images),
    "cvat": read(dataset_type=types.CVATImageDataset, labels_path=handed + "/cvat/annotations.xml", **images),
    "yolo": read(dataset_type=types.YOLOv5Dataset, dataset_dir=handed + "/yolo", yaml_path="data.yaml", split="train",
                 label_field="boxes"),
}
found, about = {}, {}
for name, dataset in datasets.items():
    (field,) = [field for field in dataset.get_field_schema() if field.startswith("boxes")]
    found[name] = {}
    for sample in dataset:
        assert os.path.isfile(sample.filepath)
        (one,) = sample[field].detections
        x, y, width, height = one.bounding_box
        edges = [64 * x, 48 * y, 64 * (x + width), 48 * (y + height)]
        found[name][sample.filepath.split("/images/")[1]] = [one.label, *edges]
    more = {key: one[key] for key in one.field_names if key in ("clip_id", "cluster", "label_confidence", "score")}
    about[name] = [one.confidence, more]
print(json.dumps({"version": fiftyone.__version__, "found": found, "about": about}))
"""
    made = run("SELAVI_PYTHON_FIFTYONE", MOCKED_DATABASE + script, boxes, cwd=tmp_path)
    for name, found in made["found"].items():
        require_boxes(found, 0.5 if name == "cvat" else 0.01)  # of which it takes whole pixels
    handed = made["about"]["fiftyone"]
    assert handed[0] == 0.5 and handed[1]["label_confidence"] == 0.25 and handed[1]["clip_id"] in IDS
    assert made["about"]["coco"] == [0.5, {"label_confidence": 0.25}]
    assert made["about"]["cvat"] == [None, {"score": 0.5}] and made["about"]["yolo"] == [None, {}]


def test_pycocotools_reads_the_boxes_as_truth_and_as_results(boxes: Path, tmp_path: Path) -> None:
    script = """
import importlib.metadata, json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
found = {}
for one in truth.loadAnns(truth.getAnnIds()):
    (image,), (category,) = truth.loadImgs(one["image_id"]), truth.loadCats(one["category_id"])
    x, y, width, height = one["bbox"]
    found[image["file_name"]] = [category["name"], x, y, x + width, y + height]
scored = COCOeval(truth, truth.loadRes(json.load(open(sys.argv[1]))["annotations"]), "bbox")
scored.evaluate()
scored.accumulate()
scored.summarize()
version = importlib.metadata.version("pycocotools")
print(json.dumps({"version": version, "found": found, "precision": scored.stats[0]}))
"""
    made = run("SELAVI_PYTHON_COCO", script, boxes / "coco" / "annotations.json", cwd=tmp_path)
    require_boxes(made["found"])
    assert made["precision"] == pytest.approx(1)


def test_label_studio_accepts_the_boxes_and_exports_the_same(boxes: Path, tmp_path: Path) -> None:
    script = """
import importlib.metadata, json, sys
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
config = open(sys.argv[1] + "/config.xml", encoding="utf-8").read()
interface = LabelInterface(config)
interface.validate()
tasks = json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8"))
predictions = [task.pop("predictions")[0] for task in tasks]
valid = [bool(interface.validate_task(task)) for task in tasks]
errors = [interface.validate_prediction(prediction, return_errors=True) for prediction in predictions]
for number, (task, prediction) in enumerate(zip(tasks, predictions)):  # as a person who accepts them all
    annotation = {"id": number, "completed_by": 1, "result": prediction["result"]}
    task.update(id=number, annotations=[annotation])
json.dump(tasks, open("tasks.json", "w"))
Converter(config, ".").convert_to_coco("tasks.json", "coco", is_dir=False)
made = json.load(open("coco/result.json", encoding="utf-8"))
names = {one["id"]: one["name"] for one in made["categories"]}
files = {one["id"]: one["file_name"] for one in made["images"]}
found = {}
for one in made["annotations"]:
    x, y, width, height = one["bbox"]
    found[files[one["image_id"]]] = [names[one["category_id"]], x, y, x + width, y + height]
version = importlib.metadata.version("label-studio-sdk")
print(json.dumps({"version": version, "valid": valid, "errors": errors, "found": found}))
"""
    made = run("SELAVI_PYTHON_LABELSTUDIO", script, boxes / "labelstudio", cwd=tmp_path)
    assert made["valid"] == [True] * 3 and made["errors"] == [[]] * 3
    require_boxes({unquote(name).split("?d=images/")[1]: found for name, found in made["found"].items()})


def test_datumaro_reads_the_boxes_for_cvat_and_its_sdk_the_labels(boxes: Path, tmp_path: Path) -> None:
    script = """
import importlib.metadata, json, pathlib, shutil, sys
import datumaro
from cvat_sdk import models
handed = pathlib.Path(sys.argv[1])
labels = json.loads((handed / "cvat" / "labels.json").read_text())
task = models.TaskWriteRequest(name="boxes", labels=[
    models.PatchedLabelRequest(**{**label, "attributes": [models.AttributeRequest(
        **{**attribute, "input_type": models.InputTypeEnum(attribute["input_type"])})
        for attribute in label["attributes"]]}) for label in labels])
shutil.copytree(handed / "images", "task/images")
shutil.copy(handed / "cvat" / "annotations.xml", "task")
dataset = datumaro.Dataset.import_from("task", "cvat")
names = dataset.categories()[datumaro.AnnotationType.label]
found, scores = {}, []
for item in dataset:
    (one,) = item.annotations
    assert item.media.size == (48, 64)
    x, y, width, height = one.get_bbox()
    found[item.id + ".jpg"] = [names[one.label].name, x, y, x + width, y + height]
    scores.append(one.attributes["score"])
versions = [importlib.metadata.version(name) for name in ("cvat-sdk", "datumaro")]
print(json.dumps({"versions": versions, "labels": [one.name for one in task.labels], "found": found, "scores": scores}))
"""
    made = run("SELAVI_PYTHON_CVAT", script, boxes, cwd=tmp_path)
    require_boxes(made["found"])
    assert made["labels"] == sorted(set(BOX_CLASSES)) and [float(score) for score in made["scores"]] == [0.5] * 3
