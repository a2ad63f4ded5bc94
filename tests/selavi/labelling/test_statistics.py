"""Where the statistics of a last labelling lie."""

from pathlib import Path

import pytest
import torch

from selavi import memory
from selavi.labelling.statistics import ClipStatistics, empty_statistics, read_statistics
from selavi.runs.checkpoint import save_tensors
from selavi.runs.stored import leave_in_file

MAPS = Path("/proc/self/maps")


def filled(folder: Path) -> torch.Tensor:
    values = empty_statistics(5, 3, folder)
    assert values.shape == (4, 5, 3) and values.isnan().all()
    values[:, torch.tensor([4, 0]), 2] = torch.arange(8.0).view(4, 2)
    return values


@pytest.mark.skipif(not MAPS.exists(), reason="Linux says what a process has mapped")
def test_large_ones_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = filled(tmp_path)
    assert str(tmp_path) not in MAPS.read_text(encoding="utf-8")
    monkeypatch.setattr(memory, "LARGE", 1)
    large = filled(tmp_path)
    assert str(tmp_path) in MAPS.read_text(encoding="utf-8")
    assert [*tmp_path.iterdir()] == []
    assert torch.equal(large.nan_to_num(-1), small.nan_to_num(-1))
    del large
    assert str(tmp_path) not in MAPS.read_text(encoding="utf-8")


def test_they_lie_in_memory_where_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = filled(tmp_path)
    monkeypatch.setattr(memory, "LARGE", 1)
    assert torch.equal(filled(tmp_path / "none").nan_to_num(-1), small.nan_to_num(-1))


def test_a_checkpoint_has_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGE", 1)
    values = empty_statistics(2000, 10, tmp_path)
    save_tensors(vars(ClipStatistics(*values)), tmp_path / "saved")
    assert 4 * values.numel() < (tmp_path / "saved").stat().st_size < 4 * values.numel() + 10_000
    read = torch.load(tmp_path / "saved", weights_only=True)
    assert read["entropy"].shape == (2000, 10)


@pytest.mark.skipif(not MAPS.exists(), reason="Linux says what a process has mapped")
def test_those_of_a_checkpoint_go_from_file_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LARGE", 1)
    values = filled(tmp_path)
    save_tensors(vars(ClipStatistics(*values)), tmp_path / "saved")
    folder = tmp_path / "run"
    folder.mkdir()
    read = read_statistics(leave_in_file(tmp_path / "saved"), folder)
    assert MAPS.read_text(encoding="utf-8").count(str(folder)) == 1  # all four, which were views of one memory
    for name, expected in vars(ClipStatistics(*values)).items():
        assert torch.equal(read[name].nan_to_num(-1), expected.nan_to_num(-1))
