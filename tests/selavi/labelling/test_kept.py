"""A labelling that reads no clip reads the newest features that the steps have made."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selavi.labelling.bank import LabelBank
from selavi.labelling.kept import KeptFeatures
from selavi.labelling.labeller import Draft
from tests import ranks

SIZES = {"a": 3, "b": 2}
CPU = torch.device("cpu")


def features_at(clips: Tensor, step: int) -> dict[str, Tensor]:
    """Features that tell when they were made, and of which clip."""
    return {name: (1000.0 * step + clips)[:, None].expand(-1, size) for name, size in SIZES.items()}


def take(kept: KeptFeatures, clips: Tensor, step: int) -> None:
    kept.note(clips, features_at(clips, step), {name: torch.ones(len(clips), dtype=torch.bool) for name in SIZES})


def orders(seed: int, num_clips: int, num_epochs: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.permutation(num_clips)) for _ in range(num_epochs)]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_clips=st.integers(1, 30),
    batch_size=st.integers(1, 8),
    num_steps=st.integers(0, 40),
)
def test_each_clip_has_what_the_last_step_with_it_made(
    seed: int, num_clips: int, batch_size: int, num_steps: int
) -> None:
    batch_size = min(batch_size, num_clips)
    per_epoch = num_clips // batch_size
    kept = KeptFeatures(SIZES, per_epoch * batch_size, CPU)
    last: dict[int, int] = {}
    num_epochs = -(-num_steps // per_epoch)
    for epoch, order in enumerate(orders(seed, num_clips, num_epochs)):
        kept.begin_epoch()
        last = {clip: step for clip, step in last.items() if step // per_epoch >= epoch - 1}
        for number in range(min(per_epoch, num_steps - epoch * per_epoch)):
            clips, step = order[number * batch_size :][:batch_size], epoch * per_epoch + number
            take(kept, clips, step)
            last |= dict.fromkeys(clips.tolist(), step)
    assert kept.is_whole() == (num_steps >= per_epoch)
    table = kept.table()
    assert sorted(table.index.tolist()) == sorted(last)
    steps = torch.tensor([last[clip] for clip in table.index.tolist()], dtype=torch.int64)
    for name in SIZES:
        assert torch.equal(table.whole[name], features_at(table.index, 0)[name] + 1000.0 * steps[:, None])
        assert table.present[name].all()


def test_a_run_that_is_taken_up_within_an_epoch_waits_for_a_whole_one() -> None:
    kept = KeptFeatures(SIZES, 6, CPU)
    for clips, is_whole in (([4, 5], False), ([0, 1], False), ([2, 3], False), ([4, 5], True)):
        if clips == [0, 1]:
            kept.begin_epoch()
        take(kept, torch.tensor(clips), 0)
        assert kept.is_whole() == is_whole
    kept.begin_epoch()
    assert kept.is_whole()


def test_what_is_not_finite_counts_as_missing() -> None:
    kept = KeptFeatures(SIZES, 3, CPU)
    features = {name: torch.ones(3, size) for name, size in SIZES.items()}
    features["a"][1, 2] = torch.nan
    features["b"][2, 0] = torch.inf
    present = {"a": torch.tensor([True, True, True]), "b": torch.tensor([False, True, True])}
    kept.note(torch.arange(3), features, present)
    table = kept.table()
    assert table.present["a"].tolist() == [True, False, True]
    assert table.present["b"].tolist() == [False, True, False]
    assert all(values.isfinite().all() for values in table.whole.values())


def test_clips_of_no_step_keep_their_labels() -> None:
    bank = LabelBank(["a", "b", "c"], 2, 3)
    bank.labels = torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32)
    draft = Draft(bank)
    draft.note_collected(torch.tensor([0, 2]), [0, 1])
    for column in range(2):
        draft.put(torch.tensor([0, 2]), column, torch.tensor([1, 1]))
    assert draft.keep_unseen(bank) == 1
    draft.hand_over(bank)
    assert bank.labels.tolist() == [[1, 1], [1, 2], [1, 1]]


def two_epochs(rank: int, world_size: int) -> KeptFeatures:
    """What a process has of an epoch of twelve clips, and of a half of the next one."""
    kept = KeptFeatures(SIZES, 12 // world_size, CPU)
    for epoch, order in enumerate(orders(3, 12, 2)):
        kept.begin_epoch()
        mine = order[: 12 if epoch == 0 else 6][rank::world_size]
        take(kept, mine, epoch)
    return kept


SCRIPT = """
import sys
import torch
import torch.distributed as dist
from tests.selavi.labelling.test_kept import two_epochs

rank = int(sys.argv[1])
dist.init_process_group("gloo", rank=rank, world_size=2)
table = two_epochs(rank, 2).table()
torch.save((table.index, table.whole["a"]), sys.argv[2])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_together_what_one_would(tmp_path: Path) -> None:
    paths = [tmp_path / f"{rank}.pt" for rank in range(2)]
    commands = [[sys.executable, "-c", SCRIPT, str(rank), str(path)] for rank, path in enumerate(paths)]
    environment = ranks.environment()
    processes = [subprocess.Popen(words, env=environment, cwd=ranks.ROOT) for words in commands]
    assert [process.wait(120) for process in processes] == [0, 0]
    parts = [torch.load(path, weights_only=True) for path in paths]
    index, features = (torch.cat(both) for both in zip(*parts, strict=True))
    one = two_epochs(0, 1).table()
    assert torch.equal(index.sort().values, torch.arange(12))
    assert torch.equal(features[index.argsort()], one.whole["a"][one.index.argsort()])
