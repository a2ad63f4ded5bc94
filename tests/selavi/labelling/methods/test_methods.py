"""A labelling method is a file and two entries: a toy one trains and labels with no other line changed."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from selavi.config import LABELLING_METHODS, Config, MethodTraits, load_config
from selavi.errors import UsageError
from selavi.labelling.methods import METHODS
from selavi.labelling.methods.interface import HeadLabels, HeadTask, Method
from selavi.labelling.votes import Votes
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tools import cluster_eval, train


def test_every_method_has_its_traits() -> None:
    assert METHODS.keys() == LABELLING_METHODS.keys()


# The whole of a toy method: the cluster of the nearest of K clips, which are drawn anew for each head.


def begin(config: Config, votes: Votes) -> Callable[[HeadTask], HeadLabels]:
    features = torch.cat([votes.clips.features[name] for name in votes.voters], 1)

    def label(task: HeadTask) -> HeadLabels:
        generator = torch.Generator().manual_seed(task.column)
        centres = features[torch.randperm(len(features), generator=generator)[: config.heads.num_clusters]]
        return HeadLabels(torch.cdist(features, centres).argmin(1), num_passes=1, converged=True)

    return label


@pytest.fixture
def nearest(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(METHODS, "nearest", Method(begin))
    monkeypatch.setitem(LABELLING_METHODS, "nearest", MethodTraits("the nearest clip", False, False))
    return "nearest"


@pytest.mark.end_to_end
@pytest.mark.parametrize("source", ["concat", "cross"])
def test_a_toy_method_trains_and_labels(nearest: str, source: str, tiny_yaml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [f"labelling.method={nearest}", f"labelling.source={source}", f"run_dir={folder}"]
    assert train.main(["--config", str(tiny_yaml), *settings]) == 0
    bank = read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]
    assert bank["labels"].shape == (32, 4 if source == "cross" else 2)
    assert bank["labels"].min() >= 0 and bank["labels"].max() < 8
    assert (bank["potentials"] == 0).all() and (bank["weights"] == 1).all()
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    assert pq.read_table(folder / "labels" / "test.parquet")["cluster"].null_count == 0


def test_settings_of_a_plan_are_refused_where_there_is_none(nearest: str) -> None:
    method = f"labelling.method={nearest}"
    assert load_config(None, [method, "labelling.source=own"]).plan_sharpness == 1
    for wrong, message in (
        (["labelling.source=own", "labelling.fraction=0.5"], "fraction must be 1 with labelling.method=nearest"),
        (
            [],
            r"concat \(the nearest clip on all features together\), own, cross or a modality with",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            load_config(None, [method, *wrong])
