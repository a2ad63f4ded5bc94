"""One function a tool: it writes what that tool opens, and returns the file or folder to open."""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selavi.errors import UsageError
from selavi.filesystem import real_path
from selavi.id_tables import begin_array
from selavi.media import MediaError, is_still, require_recording
from selavi.results.handover.clips import BLOCK, HandedClips, name_classes
from selavi.results.handover.folder import Folder, file_name, media_name

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac")
_CVAT_MAX_LABEL = 64
_CVAT_ATTRIBUTES = ("cluster", "confidence")
_PCA_ROWS = 200_000
_SCORES = ("confidence", "margin", "entropy", "modality_agreement")


def fiftyone(clips: HandedClips, folder: Folder, link: str) -> Path:
    """FiftyOne: metadata.json and samples.json, one sample a clip, all columns as fields, paths to the media.

    Written without a version, which FiftyOne reads as its first format, and so without its database's layout.
    """
    folder.claim(["metadata.json", "samples.json"])
    paths = _paths(clips, folder, link)
    with folder.file("samples.json") as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"samples": ')
        _write_list(file, (_fiftyone_sample(row, path) for row, path in zip(clips.rows(), paths, strict=True)))
        file.write("}\n")
    with folder.file("metadata.json") as temporary:
        classes = sorted(set(clips.class_names.values()))
        _write_json(temporary, {"name": "selavi", "default_classes": classes, "info": {"classes": classes}})
    return folder.path


def _fiftyone_sample(row: dict[str, Any], path: str) -> dict[str, Any]:
    def classification(label: str, **more: Any) -> dict[str, Any]:
        return {"_cls": "Classification", "label": label, "tags": [], **more}

    sample = {"filepath": path, "tags": [], "metadata": None, "clip_id": row["id"]}
    sample["prediction"] = classification(row["class"], confidence=row["confidence"])
    sample["label"] = None if row["label"] is None else classification(row["label"])
    names = ("head", "cluster", "name", "start_s", "end_s", "duration_s", "rank_in_cluster", *_SCORES[1:])
    return sample | {name: row[name] for name in names}


def videofolder(clips: HandedClips, folder: Folder, link: str) -> Path:
    """Hugging Face VideoFolder: metadata.parquet, and the media below it as links or copies; it opens no others."""
    names = [media_name(row["id"], row["path"]) for row in clips.rows()]
    folder.claim(["metadata.parquet", *names])
    place = folder.link if link == "relative" else folder.copy
    for name, media in zip(names, clips.media, strict=True):
        place(name, media)
    with folder.file("metadata.parquet") as temporary:
        pq.write_table(clips.columns().add_column(0, "file_name", pa.array(names, pa.string())), temporary)
    return folder.path


def cvat(clips: HandedClips, folder: Folder, link: str) -> Path:
    """CVAT: labels.json (label constructor, raw), annotations/ (one file a clip in CVAT's XML), clips.json (tasks).

    A task of CVAT is one video, and its labels belong to frames: a clip's class is a tag on its first frame.
    """
    labels = name_classes(clips.class_names, _CVAT_MAX_LABEL)
    names = [f"annotations/{file_name(row['id'], '.xml')}" for row in clips.rows()]
    folder.claim(["labels.json", "clips.json", *names])
    paths = _paths(clips, folder, link)
    with folder.file("clips.json") as temporary, temporary.open("w", encoding="utf-8") as file:
        _write_list(
            file,
            (
                {"name": " ".join(row["id"].split())[-256:], "media": path, "annotations": name}
                for row, path, name in zip(clips.rows(), paths, names, strict=True)
            ),
        )
    for row, name in zip(clips.rows(), names, strict=True):
        with folder.file(name) as temporary:
            _cvat_annotations(row, labels[row["cluster"]]).write(temporary, encoding="utf-8", xml_declaration=True)
    with folder.file("labels.json") as temporary:
        _write_json(temporary, [_cvat_label(name) for name in sorted(set(labels.values()))])
    return folder.path


def _cvat_label(name: str) -> dict[str, Any]:
    """A label of CVAT's label constructor; its attributes are texts, as a number would need a range and a step."""
    text = {"mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    return {"name": name, "type": "tag", "attributes": [{"name": attribute, **text} for attribute in _CVAT_ATTRIBUTES]}


def _cvat_annotations(row: dict[str, Any], label: str) -> ElementTree.ElementTree:
    """CVAT's XML 1.1 of one task: its label and a tag on the first frame."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    declared = ElementTree.SubElement(labels, "label")
    ElementTree.SubElement(declared, "name").text = label
    ElementTree.SubElement(declared, "type").text = "tag"
    attributes = ElementTree.SubElement(declared, "attributes")
    image = ElementTree.SubElement(root, "image", id="0", name="frame_000000")
    tag = ElementTree.SubElement(image, "tag", label=label, source="auto")
    for name in _CVAT_ATTRIBUTES:
        attribute = ElementTree.SubElement(attributes, "attribute")
        for key, value in (("name", name), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            ElementTree.SubElement(attribute, key).text = value
        ElementTree.SubElement(tag, "attribute", name=name).text = str(row[name])
    return ElementTree.ElementTree(root)


def labelstudio(clips: HandedClips, folder: Folder, link: str) -> Path:
    """Label Studio: tasks.json, where each clip's class is a prediction, and config.xml, the labelling interface.

    The media are served by Label Studio from its document root: the media folder, or this one where they are copied.
    """
    folder.claim(["tasks.json", "config.xml"])
    if link == "copy":
        served = list(_paths(clips, folder, link))
    else:
        media = clips.media
        assert clips.media_root is not None  # or there were none
        served = [os.path.relpath(file, os.path.realpath(clips.media_root)) for file in media]
    kind = "Audio" if all(path.lower().endswith(_AUDIO) for path in served) else _kind_of(served)
    with folder.file("tasks.json") as temporary, temporary.open("w", encoding="utf-8") as file:
        _write_list(file, (_labelstudio_task(row, path) for row, path in zip(clips.rows(), served, strict=True)))
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, kind, name="media", value="$media")
    ElementTree.SubElement(view, "Text", name="id", value="$id")
    choices = ElementTree.SubElement(
        view, "Choices", name="class", toName="media", choice="single", showInline="true", required="true"
    )
    for name in sorted(set(clips.class_names.values())):
        ElementTree.SubElement(choices, "Choice", value=name)
    with folder.file("config.xml") as temporary:
        ElementTree.indent(view)
        ElementTree.ElementTree(view).write(temporary, encoding="utf-8")
    return folder.path / "tasks.json"


def _kind_of(paths: Iterable[str]) -> str:
    """What tools call media: Image where all are still pictures."""
    return "Image" if all(is_still(Path(path)) for path in paths) else "Video"


def _labelstudio_task(row: dict[str, Any], path: str) -> dict[str, Any]:
    choice = {"from_name": "class", "to_name": "media", "type": "choices", "value": {"choices": [row["class"]]}}
    names = ("head", "cluster", "name", "label", "start_s", "end_s", "duration_s", "rank_in_cluster", *_SCORES)
    return {
        "data": {
            "media": f"/data/local-files/?d={quote(path)}",
            "id": row["id"],
            **{name: row[name] for name in names},
        },
        "predictions": [{"model_version": "selavi", "score": row["confidence"], "result": [choice]}],
    }


def spotlight(clips: HandedClips, folder: Folder, link: str) -> Path:
    """Renumics Spotlight: clips.parquet with the media's paths, and a column for each kind of features."""
    folder.claim(["clips.parquet"])
    table = _with_media(clips, folder, link)
    blocks = {name: clips.feature_blocks(name) for name in clips.features}
    with folder.file("clips.parquet") as temporary:
        _write_blocks(table, temporary, {f"{name}_features": rows for name, rows in blocks.items()})
    return folder.path / "clips.parquet"


def embedding_atlas(clips: HandedClips, folder: Folder, link: str) -> Path:
    """embedding-atlas: clips.parquet with x and y, the first two principal components of the first features."""
    name = _need_features(clips, "embedding-atlas")
    folder.claim(["clips.parquet"])
    table = _with_media(clips, folder, link)
    project = _principal_components(clips, name)
    points = np.concatenate([project(block) for block in clips.feature_blocks(name)])
    table = table.append_column("x", pa.array(points[:, 0])).append_column("y", pa.array(points[:, 1]))
    with folder.file("clips.parquet") as temporary:
        pq.write_table(table, temporary)
    return folder.path / "clips.parquet"


def features(clips: HandedClips, folder: Folder, link: str) -> Path:
    """NAME.npy, (N, D) float32, for each kind of features, and clips.parquet: its row i is of their rows i."""
    _need_features(clips, "features")
    folder.claim(["clips.parquet", *(f"{name}.npy" for name in clips.features)])
    for name, (_, values) in clips.features.items():
        with folder.file(f"{name}.npy") as temporary, temporary.open("wb") as file:
            begin_array(file, "<f4", (len(clips), values.shape[1]))
            for block in clips.feature_blocks(name):
                file.write(np.ascontiguousarray(block, "<f4").data)
    with folder.file("clips.parquet") as temporary:
        pq.write_table(clips.columns(), temporary)
    return folder.path


FORMATS: dict[str, Callable[[HandedClips, Folder, str], Path]] = {
    "fiftyone": fiftyone,
    "videofolder": videofolder,
    "cvat": cvat,
    "labelstudio": labelstudio,
    "spotlight": spotlight,
    "embedding-atlas": embedding_atlas,
    "features": features,
}
"""By name, which is the folder's too: (clips, folder, link) -> what to open."""
WITHOUT_MEDIA = ("spotlight", "embedding-atlas", "features")
"""Those that can also be written of clips that have no media."""


def how_to_open(name: str, clips: HandedClips, folder: Path, link: str) -> str:
    """The commands for one format, as docs/names_and_handover.md has them."""
    path = real_path(folder)
    root = path if link == "copy" or clips.media_root is None else real_path(clips.media_root)
    kind = _kind_of(row["path"] for row in clips.rows()) if clips.media_root else "Video"
    media_type = f" --dtype media={kind}" if clips.media_root else ""
    return {
        "fiftyone": f"fiftyone.Dataset.from_dir({str(path)!r}, dataset_type=fiftyone.types.FiftyOneDataset)",
        "videofolder": f"datasets.load_dataset('{kind.lower()}folder', data_dir={str(path)!r})",
        "cvat": "labels.json goes into the label constructor (raw); docs/names_and_handover.md makes the tasks",
        "labelstudio": "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(root))} label-studio start; "
        "then config.xml as labelling interface, a local storage of that folder, and import tasks.json",
        "spotlight": f"cd {shlex.quote(str(path))} && renumics-spotlight clips.parquet{media_type}",
        "embedding-atlas": f"embedding-atlas {shlex.quote(str(path / 'clips.parquet'))} --x x --y y",
        "features": f"numpy.load({str(path / 'NAME.npy')!r}, mmap_mode='r'); ids in clips.parquet",
    }[name]


def _need_features(clips: HandedClips, wanted_by: str) -> str:
    if not clips.features:
        raise UsageError(f"{wanted_by} needs features, and there are none of these clips")
    return next(iter(clips.features))


def _paths(clips: HandedClips, folder: Folder, link: str) -> list[str]:
    """The media as seen from the folder's real path; copied into it where they shall be."""
    if link == "relative":
        return [os.path.relpath(media, os.path.realpath(folder.path)) for media in clips.media]
    names = [media_name(row["id"], row["path"]) for row in clips.rows()]
    folder.claim(names)
    for name, media in zip(names, clips.media, strict=True):
        if clips.scanned is not None:
            _require_recording(media)
        folder.copy(name, media)
    return names


def _require_recording(media: str) -> None:
    """A file that is no recording is not copied, whatever the manifest says."""
    try:
        require_recording(Path(media))
    except MediaError as fault:
        raise UsageError(
            f"{media} is no recording ({fault.reason}: {fault.detail}), so it is not handed over; bring the clip back, "
            "or say data.root=NEW where the clips have moved"
        ) from fault


def _with_media(clips: HandedClips, folder: Folder, link: str) -> pa.Table:
    if clips.media_root is None:
        return clips.columns()
    return clips.columns().append_column("media", pa.array(_paths(clips, folder, link), pa.string()))


def _principal_components(clips: HandedClips, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """(n, D) -> (n, 2), fitted to at most _PCA_ROWS clips at even distances."""
    from sklearn.decomposition import PCA

    step = -(-len(clips) // _PCA_ROWS)  # at least 1: there are clips
    rows, seen = [], 0
    for block in clips.feature_blocks(name):
        rows.append(block[-seen % step :: step])
        seen += len(block)
    some = np.concatenate(rows)
    if not np.isfinite(some).all():
        raise UsageError(f"the {name} features hold numbers that are not finite")
    if len(some) == 1:
        return lambda block: np.zeros((len(block), 2), np.float32)
    pca = PCA(n_components=min(2, *some.shape), svd_solver="covariance_eigh").fit(some)

    def project(block: np.ndarray) -> np.ndarray:
        points = np.zeros((len(block), 2), np.float32)
        points[:, : pca.n_components_] = pca.transform(block)
        return points

    return project


def _write_blocks(table: pa.Table, path: Path, blocks: dict[str, Iterator[np.ndarray]]) -> None:
    """Write a table with (n, D) float32 blocks as further columns, BLOCK rows at a time."""
    writer = None
    try:
        for start in range(0, len(table), BLOCK):
            part = table.slice(start, BLOCK)
            for name, rows in blocks.items():
                block = next(rows)
                offsets = np.arange(len(block) + 1, dtype=np.int32) * block.shape[1]
                part = part.append_column(name, pa.ListArray.from_arrays(offsets, block.reshape(-1)))
            writer = writer or pq.ParquetWriter(path, part.schema)
            writer.write_table(part)
    finally:
        if writer:
            writer.close()


def _write_list(file: IO[str], items: Iterator[dict[str, Any]]) -> None:
    """A JSON list in ASCII, an item a line, none kept in memory."""
    file.write("[")
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + json.dumps(item, allow_nan=False))
    file.write("\n]")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
