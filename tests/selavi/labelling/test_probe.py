import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from selavi.labelling import memory
from selavi.labelling.features import FeatureTable
from selavi.labelling.probe import probe_scores, teaches
from tests import ranks

N, K = 501, 4

# Each process has its share of the clips, in an order of its own.
WORKER = """
import sys
import torch
import torch.distributed as dist
from selavi.labelling.features import FeatureTable
from selavi.labelling.probe import probe_scores

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", rank=rank, world_size=2)
index, features, present, labels = torch.load(f"{folder}/clips.pt")
own = (torch.arange(300), torch.arange(300, len(index)))[rank]
clips = FeatureTable(
    index[own],
    {name: values[own] for name, values in features.items()},
    {name: values[own] for name, values in present.items()},
)
torch.save(probe_scores(clips, labels[own], 4), f"{folder}/scores{rank}.pt")
dist.destroy_process_group()
"""


def clips_and_labels() -> tuple[FeatureTable, Tensor]:
    """Clips of two modalities, a fifth without sound, and three heads: true clusters, half of them, chance."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, K, N)
    heads = [np.where(rng.random(N) < wrong, rng.integers(0, K, N), truth) for wrong in (0, 0.5, 1)]
    features = {
        name: torch.from_numpy(rng.normal(0, 1, (N, size)) + 3 * np.eye(K, size)[truth]).float()
        for name, size in (("video", 6), ("audio", 5))
    }
    present = {"video": torch.ones(N, dtype=torch.bool), "audio": torch.from_numpy(rng.random(N) > 0.2)}
    return FeatureTable(torch.from_numpy(rng.permutation(N)), features, present), torch.from_numpy(np.stack(heads, 1))


def test_the_score_is_the_kappa_of_scikit_learns_ridge_classifier() -> None:
    clips, labels = clips_and_labels()
    joined = np.concatenate(
        [
            np.where(clips.present[name][:, None], torch.nn.functional.normalize(values.double(), dim=1), 0)
            for name, values in clips.features.items()
        ],
        1,
    )
    taught = teaches(clips.index).numpy()
    scaled = (joined - joined[taught].mean(0)) / joined[taught].std(0)
    expected = []
    for column in labels.numpy().T:
        targets = np.eye(K)[column[taught]]
        ridge = Ridge(alpha=0.01 * len(targets)).fit(scaled[taught], targets)
        said = ridge.predict(scaled[~taught]).argmax(1)
        expected.append(cohen_kappa_score(column[~taught], said))
    scores = probe_scores(clips, labels, K)
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)
    assert scores[0] > 0.9 > scores[1] > 0.3 > 0.15 > abs(scores[2])


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8, 13, 60])
def test_half_of_the_clips_teach_whichever_kinds_take_turns(period: int) -> None:
    for first in range(min(period, 5)):
        share = teaches(torch.arange(first, 100_000 * period, period)).double().mean().item()
        assert share == pytest.approx(0.5, abs=0.001)


def test_blocks_and_what_stands_for_a_missing_modality_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, labels = clips_and_labels()
    whole = probe_scores(clips, labels, K)
    monkeypatch.setattr(memory, "BLOCK_ROWS", 7)
    clips.features["audio"][~clips.present["audio"]] = torch.nan
    assert torch.allclose(probe_scores(clips, labels, K), whole, atol=1e-12)


def test_one_cluster_for_all_clips_scores_nothing_and_clips_without_one_do_not_count() -> None:
    clips, labels = clips_and_labels()
    known = probe_scores(clips, labels, K)[0]
    labels[:, 1] = 2
    labels[::3, 0] = -1
    labels[:, 2] = -1
    scores = probe_scores(clips, labels, K)
    assert scores[1] == 0
    assert scores[0] == pytest.approx(known.item(), abs=0.1)
    assert scores[2].isnan()


def test_features_that_never_change_are_left_out() -> None:
    clips, labels = clips_and_labels()
    same = FeatureTable(clips.index, {"video": torch.ones(N, 3)}, {"video": clips.present["video"]})
    assert probe_scores(same, labels, K).tolist() == [0, 0, 0]


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    clips, labels = clips_and_labels()
    torch.save((clips.index, clips.features, clips.present, labels), tmp_path / "clips.pt")
    environment = ranks.environment()
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    for rank in (0, 1):
        assert torch.allclose(torch.load(tmp_path / f"scores{rank}.pt"), probe_scores(clips, labels, K), atol=1e-9)
