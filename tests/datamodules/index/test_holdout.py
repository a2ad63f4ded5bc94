from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.index.holdout import hold_out, split_off
from selavi.errors import UsageError
from selavi.runs.manifest import SCHEMA

UCF = [f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi" for label in "AB" for group in range(1, 9) for clip in (1, 2)]


def labels_of(ids: list[str]) -> list[str]:
    return [clip_id[0] for clip_id in ids]


def test_the_share_is_met_for_every_label() -> None:
    ids = [f"{label}{n}" for label in "AB" for n in range(50)]
    held = hold_out(ids, labels_of(ids), fraction=0.1, seed=0)
    assert held[:50].sum() == held[50:].sum() == 5


def test_groups_stay_together() -> None:
    held = hold_out(UCF, labels_of(UCF), fraction=0.25, seed=0, group="ucf101")
    assert held.sum() == 8
    assert (held[0::2] == held[1::2]).all()  # both clips of a group


@pytest.mark.parametrize(
    ("clip_id", "film"),
    [
        ("kiss/5GreatHollywoodKisses_kiss_h_cm_np2_ri_goo_1.avi", "5GreatHollywoodKisses_kiss"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09_brush_hair"),
    ],
)
def test_hmdb51_clips_are_grouped_by_film(clip_id: str, film: str) -> None:
    other = clip_id.replace(film, "Another_film_x")
    sibling = clip_id[:-5] + "7.avi"
    held = hold_out([clip_id, sibling, other], ["a"] * 3, fraction=0.3, seed=0, group="hmdb51")
    assert held[0] == held[1] != held[2]


def test_the_choice_depends_on_the_seed_and_not_on_the_order() -> None:
    def chosen(ids: list[str], seed: int) -> set[str]:
        held = hold_out(ids, labels_of(ids), fraction=0.25, seed=seed, group="ucf101")
        return set(np.array(ids)[held])

    assert chosen(UCF, 0) == chosen(UCF[::-1], 0) != chosen(UCF, 1)


def test_a_label_with_one_group_is_left_whole() -> None:
    held = hold_out(["a", "b", "c"], ["x", "y", "y"], fraction=0.9, seed=0)
    assert held.tolist()[0] is False
    assert held.sum() == 1


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="fits none of the 32 ids, such as A/v_A_g01_c01"):
        hold_out(UCF, labels_of(UCF), fraction=0.1, seed=0, group="nothing")
    with pytest.raises(UsageError, match=r"neither ucf101 nor hmdb51 nor a regular expression"):
        hold_out(UCF, labels_of(UCF), fraction=0.1, seed=0, group="(")
    with pytest.raises(UsageError, match="expected a share between 0 and 1"):
        hold_out(UCF, labels_of(UCF), fraction=1.0, seed=0)


def manifest(rows: list[dict[str, object]]) -> pa.Table:
    filled = [{"status": "ok", **row} for row in rows]
    return pa.Table.from_pylist(filled, SCHEMA.with_metadata({"root": "/videos"}))


def test_a_part_of_a_split_becomes_one_of_its_own() -> None:
    rows = [{"id": f"{n}", "split": split, "label": "x"} for split in ("train", "test") for n in range(10)]
    rows = [{**row, "id": f"{row['split']}{row['id']}"} for row in rows]
    rows += [{"id": "unknown", "split": "train"}, {"id": "broken", "split": "train", "label": "x", "status": "corrupt"}]
    found = split_off(manifest(rows), "train", "held_out", fraction=0.3, seed=0, group="")
    splits = dict(zip(found["id"].to_pylist(), found["split"].to_pylist(), strict=True))
    assert "unknown" not in splits
    assert splits["broken"] == "train"
    assert sum(split == "held_out" for split in splits.values()) == 3
    assert all(splits[f"test{n}"] == "test" for n in range(10))
    assert found.schema.metadata[b"root"] == b"/videos"


def test_clips_without_labels_cannot_be_held_out() -> None:
    with pytest.raises(UsageError, match=r"no usable clip of split 'train' of /videos has a label"):
        split_off(manifest([{"id": "a", "split": "train"}]), "train", "x", fraction=0.5, seed=0, group="")
    with pytest.raises(UsageError, match="so none can be held out"):
        rows = [{"id": "a", "split": "train", "label": "y"}]
        split_off(manifest(rows), "train", "x", fraction=0.5, seed=0, group="")


def test_the_repository_has_no_group_that_its_lists_do_not_fit(shared: Path) -> None:
    lists = {
        "ucf101": shared / "data" / "annotations" / "ucf101" / "splits",
        "hmdb51": shared / "data" / "annotations" / "hmdb51" / "splits",
    }
    for group, folder in lists.items():
        files = sorted(folder.rglob("*train*1.txt")) or sorted(folder.rglob("*split1.txt"))
        if not files:
            pytest.skip(f"no lists in {folder}")
        ids = [line.split()[0] for file in files[:3] for line in file.read_text().splitlines() if line.strip()]
        held = hold_out(ids, ["all"] * len(ids), fraction=0.1, seed=0, group=group)
        assert 0.09 * len(ids) < held.sum() < 0.3 * len(ids)


def test_pieces_of_one_recording_stay_together() -> None:
    recordings = [f"film{number}.mp4" for number in range(10) for _ in range(7)]
    ids = [f"{name}#t={row}.0,{row + 1}.0" for row, name in enumerate(recordings)]
    held = hold_out(ids, ["a"] * 70, fraction=0.2, seed=0, recordings=recordings)
    assert held.sum() == 14
    assert not {name for name, out in zip(recordings, held, strict=True) if out} & {
        name for name, out in zip(recordings, held, strict=True) if not out
    }
