"""Each format from a small file of it, as it is and as it should not be."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.index.annotations import FORMATS, read_annotations
from selavi.errors import UsageError

XML = (
    "<annotation><bbox><annotator>1</annotator><xmin>0</xmin><ymin>0</ymin><xmax>128</xmax><ymax>256</ymax></bbox>"
    "<bbox><annotator>2</annotator><xmin>0</xmin><ymin>0</ymin><xmax>64</xmax><ymax>300</ymax></bbox></annotation>"
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def to_file(content: object) -> Path:
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file


def test_vggss_clips_corrupt_boxes_and_says_so(write: Callable[[object], Path]) -> None:
    name = "a_B3-x_9zQk_000030"
    path = write(
        [
            {"file": name, "class": "dog barking", "bbox": [[0.5, 0, 1, 1], [-2.9e16, 0.5, 0.25, 2]]},
            {"file": name, "class": "rain", "bbox": [[0.4, 0.2, 0.4, 0.5]]},
        ]
    )
    found = read_annotations(path, "vggss")
    first, second = found.rows
    assert (first.name, first.start_s, first.time_s, first.label) == (name, 30.0, 5.0, "dog barking")
    assert first.people == (((0.5, 0.0, 1.0, 1.0), (0.0, 0.5, 0.25, 1.0)),)
    assert second.people == ((),) and not second.truth(4, 4).any()
    assert first.truth(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[1, 0, 1, 1]] * 2
    assert [note.split()[0] for note in found.notes()] == ["1", "1"]


def test_flickr_soundnet_is_certain_where_two_agree(tmp_path: Path) -> None:
    (tmp_path / "123.xml").write_text(XML)
    found = read_annotations(tmp_path, "flickr_soundnet")
    (one,) = found.rows
    assert one.name == "123" and len(one.people) == 2 and found.num_clipped == 1
    assert one.truth(2, 4).tolist() == [[1, 0.5, 0, 0]] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation></annotation>", "there is no bbox"),
        (XML.replace("128", "wide"), "an entry is not of that kind"),
        (XML[:-20], "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + XML, "declares a document type"),
    ],
)
def test_flickr_files_that_are_damaged_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "123.xml").write_text(content)
    with pytest.raises(UsageError, match=rf"123\.xml.*{message}"):
        read_annotations(tmp_path, "flickr_soundnet")


def test_music_and_audioset_split_a_picture_by_category(write: Callable[[object], Path]) -> None:
    boxes = [{"normbox": [0.5, 0, 0.5, 0.5], "category_id": 3}, {"normbox": [0, 0, 0.5, 2], "category_id": 1}]
    path = write({"V/frame_013/00411.jpg": {"bbox": boxes, "wdith": 9, "height": 9}, "V/a.jpg": {"bbox": []}})
    found = read_annotations(path, "music")
    assert [(one.name[:5], one.label, one.people) for one in found.rows] == [
        ("V/fra", "1", (((0.0, 0.0, 0.5, 1.0),),)),
        ("V/fra", "3", (((0.5, 0.0, 1.0, 0.5),),)),
        ("V/a.j", None, ((),)),
    ]
    assert found.num_clipped == 1
    path = write({"aB3-x_9zQkM/30": {"bbox": [{"normbox": [0, 0, 1, 1], "category": "cello"}]}})
    (one,) = read_annotations(path, "audioset_instrument").rows
    assert (one.start_s, one.label) == (30.0, "cello") and one.truth(2, 2).all()


def test_coco_knows_pictures_in_which_nothing_lies(write: Callable[[object], Path]) -> None:
    path = write(
        {
            "images": [{"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 20} for number in (1, 2)],
            "categories": [{"id": 3, "name": "dog"}],
            "annotations": [{"image_id": 1, "category_id": 3, "bbox": [10, 0, 20, 10]}],
        }
    )
    first, second = read_annotations(path, "coco").rows
    assert (first.name, first.label, first.people) == ("1.jpg", "dog", (((0.25, 0.0, 0.75, 0.5),),))
    assert (second.name, second.label, second.people) == ("2.jpg", None, ((),))


def test_a_table_has_a_row_a_box(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    rows = ["a.mp4,1.5,0,0,0.5,1,dog", "a.mp4,1.5,0.5,0.5,0.5,0.5,dog", "a.mp4,1.5,0,0,1,1,cat", "b.mp4,0,,,,,"]
    path.write_text("\n".join(["id,time_s,x,y,w,h,label", *rows]))
    found = read_annotations(path, "table").rows
    assert [(one.name, one.time_s, one.label) for one in found] == [
        ("a.mp4", 1.5, "dog"),
        ("a.mp4", 1.5, "cat"),
        ("b.mp4", 0.0, None),
    ]
    assert found[0].people == (((0.0, 0.0, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)),)
    assert found[2].people == ((),)


def test_avsbench_reads_its_masks_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "gt_masks" / "test" / "dog" / "v_1"
    folder.mkdir(parents=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(folder / "v_1_2.png")
    (folder / "v_1_1.png").write_bytes(b"no picture")
    broken, whole = read_annotations(tmp_path / "gt_masks", "avsbench").rows
    assert (whole.name, whole.time_s, whole.label) == ("v_1", 1.5, "dog")
    assert whole.truth(4, 2).tolist() == [[1, 1]] * 2 + [[0, 0]] * 2
    with pytest.raises(UsageError, match=r"cannot read the mask .*v_1_1\.png"):
        broken.truth(4, 4)
    (tmp_path / "gt_masks" / "other.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"other\.png was read as a mask of AVSBench; one of them is"):
        read_annotations(tmp_path / "gt_masks", "avsbench")


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.place == "file" and name != "table"])
@pytest.mark.parametrize("content", ["[1, 2]", '{"a": 3}', "null", '[{"file": "x_y", "class": "a", "bbox": []}]'])
def test_json_of_another_kind_is_refused_with_an_example(
    name: str, content: str, write: Callable[[object], Path]
) -> None:
    with pytest.raises(UsageError, match=r"annotations\.json was read as annotations of .* an entry of one is:"):
        read_annotations(write(content), name)


@pytest.mark.parametrize("name", [*FORMATS])
def test_what_is_not_there_or_no_text_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        read_annotations(tmp_path / "nowhere", name)
    (tmp_path / "damaged.xml").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(UsageError, match=r"damaged\.xml|holds no"):
        read_annotations(tmp_path if FORMATS[name].place == "folder" else tmp_path / "damaged.xml", name)


def test_a_table_without_its_columns_or_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("id,x,y,w,h\na,0,0,1,1\n")
    with pytest.raises(UsageError, match="time_s"):
        read_annotations(path, "table")
    path.write_text("id,time_s,x,y,w,h\na,0,0,0,1,wide\n")
    with pytest.raises(UsageError, match="an entry is not of that kind"):
        read_annotations(path, "table")


def test_an_unknown_format_lists_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'voc' of annotations; there are vggss, flickr_soundnet"):
        read_annotations(tmp_path, "voc")
