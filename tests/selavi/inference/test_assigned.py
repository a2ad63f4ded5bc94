import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selavi.config import Config, HeadsConfig, LabellingConfig, differences
from selavi.errors import DataError, UsageError
from selavi.inference import assigned
from selavi.inference.predict import BatchPredictions
from selavi.labelling.rule import LabelRule


def make_config(source: Any = "joint", method: Any = "transport") -> Config:
    return Config(
        heads=HeadsConfig(num_heads=2, num_clusters=5),
        labelling=LabellingConfig(head_groups=1, source=source, method=method),
    )


def predictions(
    rows: list[int], judged: list[list[bool]], present: dict[str, list[bool]], errors: dict[int, str]
) -> BatchPredictions:
    """Cluster: the row's number; confidence: its tenth, plus a hundredth a column."""
    count, columns = len(rows), len(judged[0])
    number = torch.tensor(rows)[:, None].repeat(1, columns)
    sure = torch.stack([number / 10 + torch.arange(columns) / 100] * 3 + [torch.full((count, columns), torch.nan)])
    return BatchPredictions(
        torch.tensor(rows),
        number,
        torch.tensor(judged),
        {},
        sure,
        number[..., None] + torch.tensor([1, 2]),
        torch.full((count, columns, 2), 0.25),
        {},
        {name: torch.tensor(there) for name, there in present.items()},
        errors,
    )


def listed(*ids: str) -> pa.Table:
    columns = {"id": ids, "path": ids, "label": pa.array(["dog"] + [None] * (len(ids) - 1), pa.string())}
    return pa.table(columns | {"start_s": [0.0] * len(ids), "end_s": pa.nulls(len(ids), pa.float64())})


def test_heads_of_one_modality_do_not_guess_at_clips_without_it() -> None:
    """Own and cross labels: heads 0 and 1 judge by the picture, 2 and 3 by the sound."""
    config = make_config("cross")
    assert assigned.allowed_columns(config, ["video", "audio"]) == [0, 1, 2, 3]
    assert assigned.allowed_columns(config, ["audio"]) == [2, 3]
    bank = {"labels": torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0], [2, 1, 2, 2]])}
    assert assigned.choose_columns("chosen", bank, config, ["audio"]) == [2]
    probed = bank | {"probe": torch.tensor([0.9, 0.1, 0.2, 0.3])}
    assert assigned.choose_columns("chosen", probed, config, ["audio"]) == [3]
    assert assigned.choose_columns("chosen", probed, config, ["video", "audio"]) == [0]
    assert assigned.choose_columns("3", bank, config, ["audio"]) == [3]
    with pytest.raises(UsageError, match="one of 2, 3 \\(of 4 heads, those that judge by audio\\), got '0'"):
        assigned.choose_columns("0", bank, config, ["audio"])
    present = {"video": [True, False, True], "audio": [True, True, False]}
    found = [predictions([10, 11, 12], [[True, True], [False, True], [True, False]], present, {})]
    table = assigned.part_table(listed("a", "b", "c"), 10, found, [1, 2], config)
    assert [(row["id"], row["status"], row["head"], row["cluster"]) for row in table.to_pylist()] == [
        ("a", "ok", 1, 10), ("a", "ok", 2, 10), ("b", "ok", 2, 11), ("c", "ok", 1, 12)
    ]  # fmt: skip
    found = [predictions([10, 11, 12], [[True], [False], [True]], present, {12: "corrupt: broken: in two"})]
    rows = assigned.part_table(listed("a", "b", "c"), 10, found, [1], config).to_pylist()
    assert [(row["id"], row["status"], row["reason"]) for row in rows] == [
        ("a", "ok", None),
        ("b", "no_video", "the head judges by pictures alone"),
        ("c", "corrupt", "broken: in two"),
    ]


@pytest.mark.parametrize("source", ["joint", "concat"])
def test_heads_that_read_all_modalities_judge_by_any(source: str) -> None:
    config = make_config(source)
    assert assigned.allowed_columns(config, ["audio"]) == [0, 1]
    assert assigned.choose_modalities(None, config) == ["video", "audio"]
    assert assigned.choose_modalities(["audio"], config) == ["audio"]
    config.modalities = ["video"]
    with pytest.raises(UsageError, match="--modalities audio: the run was trained on video alone"):
        assigned.choose_modalities(["audio"], config)


def test_the_digest_tells_runs_apart() -> None:
    state, rule = {"a": torch.zeros(3), "b": torch.ones(2)}, LabelRule.plain(2, 5)
    digest = assigned.settings_digest(make_config(), state, rule)
    assert digest == assigned.settings_digest(make_config(), dict(reversed(state.items())), rule)
    other = make_config()
    other.data.clip_s = 2.0
    for changed in (
        (other, state, rule),
        (make_config(), {**state, "b": torch.zeros(2)}, rule),
        (make_config(), state, LabelRule(rule.potentials + 1e-9)),
    ):
        assert assigned.settings_digest(*changed) != digest
    other = make_config()
    other.data.root, other.data.num_workers, other.labelling.batch_size = "elsewhere", 0, 3
    assert assigned.settings_digest(other, state, rule) == digest


def test_a_setting_that_is_added_later_leaves_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-done labels of new clips go on under a version that has more settings."""
    digest = assigned.settings_digest(make_config(), {}, LabelRule.plain(1, 1))
    as_dict = differences.as_dict

    def with_one_more(config: Config) -> dict[str, Any]:
        settings = as_dict(config)
        settings["labelling"]["patience"] = 3
        return settings

    monkeypatch.setattr(differences, "as_dict", with_one_more)
    monkeypatch.setattr(assigned, "as_dict", with_one_more)
    assert assigned.settings_digest(make_config(), {}, LabelRule.plain(1, 1)) == digest


def write_parts(folder: Path, order: str) -> list[Path]:
    parts = []
    for number in range(0, len(order), 2):
        ids = order[number : number + 2]
        places = ["abcdef".index(clip_id) for clip_id in ids]
        found = [predictions(places, [[True]] * 2, {"video": [True] * 2, "audio": [True] * 2}, {})]
        table = assigned.part_table(listed(*ids), 0, found, [0], make_config())
        clusters = pa.array([place % 2 for place in places], pa.int32())
        table = table.set_column(table.schema.get_field_index("cluster"), "cluster", clusters)
        parts.append(folder / f"{order}{number}.parquet")
        pq.write_table(table, parts[-1])
    return parts


def test_parts_in_any_order_merge_to_the_same_table(tmp_path: Path) -> None:
    for name, order in (("sorted", "abcdef"), ("mixed", "ebafcd")):
        parts = write_parts(tmp_path, order)
        assigned.merge_parts(parts, tmp_path / name, 2, None, sorted_by_id=name == "sorted")
    table = pq.read_table(tmp_path / "sorted" / "assignments.parquet").drop_columns("label")
    assert table.equals(pq.read_table(tmp_path / "mixed" / "assignments.parquet").drop_columns("label"))
    assert table["id"].to_pylist() == list("abcdef")
    assert table["rank_in_cluster"].to_pylist() == [2, 2, 1, 1, 0, 0]  # e is surer than c than a; f than d than b
    text = (tmp_path / "sorted" / "assignments.csv").read_text().splitlines()
    assert text[1].endswith(',"dog",,1,0.25,2,0.25')


def test_cells_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    found = [predictions([0], [[True]], {"video": [True], "audio": [True]}, {})]
    hostile = '=cmd|"/c calc"!A1,\n<b>.mp4'
    pq.write_table(assigned.part_table(listed(hostile), 0, found, [0], make_config()), tmp_path / "part.parquet")
    for safe in (False, True):
        paths = assigned.merge_parts(
            [tmp_path / "part.parquet"], tmp_path, 2, None, sorted_by_id=True, spreadsheet_safe=safe
        )
        assert pq.read_table(paths[0])["id"].to_pylist() == [hostile]
        with paths[1].open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert row["id"] == row["path"] == ("'" if safe else "") + hostile


class Clips:
    """A list of ten clips without parts."""

    num_clips = 10
    media_root = None

    def __init__(self, out: Path) -> None:
        self.out = out

    def done(self) -> list[Path]:
        return []


def test_what_is_no_fault_of_a_file_does_not_count_as_bad(tmp_path: Path) -> None:
    clips: Any = Clips(tmp_path)
    assigned.check_bad(Counter(ok=2, corrupt=2), clips, 0.2)
    assert not (tmp_path / "bad.csv").exists()  # six are still to come
    assigned.check_bad(Counter(ok=2, corrupt=2, silent=4, no_audio=2), clips, 0.2)
    assert (tmp_path / "bad.csv").exists()
    with pytest.raises(DataError, match=r"3 of 10 files cannot be used \(1 corrupt, 2 empty\)"):
        assigned.check_bad(Counter(ok=1, empty=2, corrupt=1), clips, 0.2)
    with pytest.raises(DataError, match="none of the 10 clips can be labelled"):
        assigned.check_bad(Counter(silent=10), clips, 0.2)
