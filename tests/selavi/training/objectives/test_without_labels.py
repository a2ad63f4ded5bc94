"""The losses that need no labels, against plain definitions; and how many clips a step they need."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selavi.augment.draws import other_view, which_of
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.training.objectives import make_terms
from selavi.training.objectives.batch_size import check_batch
from selavi.training.objectives.mutual_information import joint_probabilities, mutual_information
from selavi.training.objectives.neighbours import balance, disagreement, find_neighbours, without_self
from selavi.training.objectives.term import Judged, Step

H, B, K, N = 2, 6, 3, 40
NONE = "labelling.method=none"


def random_logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(H, B, K, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 100))
def test_mutual_information_is_its_sum_over_pairs_of_clusters(seed: int) -> None:
    one, other = random_logits(seed), random_logits(seed + 1000)
    both = torch.tensor([True] * 4 + [False] * 2)
    joint = joint_probabilities(one, other, both)
    found = mutual_information(joint)
    for head in range(H):
        pairs = torch.zeros(K, K, dtype=torch.float64)
        for clip in range(4):
            p, q = (values[head, clip].double().softmax(0) for values in (one, other))
            pairs += (torch.outer(p, q) + torch.outer(q, p)) / 8
        expected = sum(
            pairs[k, m] * math.log(pairs[k, m] / (pairs[k].sum() * pairs[:, m].sum()))
            for k in range(K)
            for m in range(K)
        )
        torch.testing.assert_close(joint[head].double(), pairs, atol=1e-6, rtol=1e-5)
        assert float(found[head]) == pytest.approx(float(expected), abs=1e-5)


def test_it_is_ln_k_where_clusters_are_certain_and_even_and_has_a_gradient_there() -> None:
    logits = 200 * torch.eye(K).repeat(1, 2, 1).requires_grad_()
    found = mutual_information(joint_probabilities(logits, logits, torch.ones(2 * K, dtype=torch.bool)))
    assert found.item() == pytest.approx(math.log(K), abs=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()


def test_clusters_that_answer_each_other_under_other_numbers_are_worth_less() -> None:
    """One view's cluster k always with the other's k + 1: symmetry gives that less than equal numbers."""
    certain = 50 * torch.eye(K)[None]
    everyone = torch.ones(K, dtype=torch.bool)
    shifted = mutual_information(joint_probabilities(certain, certain.roll(1, 2), everyone))
    assert shifted.item() < math.log(K) - 0.5


@given(st.integers(0, 100))
def test_neighbours_disagree_by_their_dot_product(seed: int) -> None:
    one, other = random_logits(seed), random_logits(seed + 1000)
    both = torch.tensor([True] * 4 + [False] * 2)
    dots = (one.softmax(2) * other.softmax(2)).sum(2)[:, :4]
    torch.testing.assert_close(disagreement(one, other, both), -dots.log().mean())
    means = one[:, :4].softmax(2).mean(1)
    torch.testing.assert_close(balance(one, both), -(means * means.log()).sum(1).mean())


class Vectors:
    """Clips with two spaces of vectors, all of them this process's."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = {name: torch.randn(N, 5, generator=generator) for name in ("one", "two")}
        self.values["one"][7] = self.values["one"][3]
        self.values["two"][7] = self.values["two"][3]

    def all_rows(self) -> torch.Tensor:
        return torch.arange(N)

    def present(self) -> dict[str, torch.Tensor]:
        return {name: torch.ones(N, dtype=torch.bool) for name in self.values}

    def read_rows(self, rows: torch.Tensor, draws: torch.Tensor | None = None) -> ClipBatch:
        present = {name: torch.ones(len(rows), dtype=torch.bool) for name in self.values}
        numbers = torch.full((len(rows), NUM_DRAWS), 0.5) if draws is None else draws
        return ClipBatch(rows, {name: values[rows] for name, values in self.values.items()}, present, numbers, [])


def test_neighbours_are_the_nearest_other_clips() -> None:
    clips = Vectors()
    found = find_neighbours(clips, N, ["one", "two"], 4)
    scaled = [(v - v.mean(0)) / v.std(0, unbiased=False) for v in clips.values.values()]
    unit = torch.cat([v / v.norm(dim=1, keepdim=True) for v in scaled], 1)
    distances = torch.cdist(unit, unit).fill_diagonal_(torch.inf)
    assert torch.equal(found.sort(1).values, distances.topk(4, largest=False).indices.sort(1).values)
    assert found[3, 0] == 7 and found[7, 0] == 3  # equal clips are neighbours, and none is its own
    assert without_self(torch.tensor([[4, 5, 6], [1, 2, 3]]), torch.tensor([5, 0])).tolist() == [[4, 6], [1, 2]]


def test_another_view_follows_from_the_clips_numbers() -> None:
    draws = torch.rand(B, NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    batch = ClipBatch(torch.arange(B), {"one": torch.zeros(B, 5)}, {"one": torch.ones(B, dtype=torch.bool)}, draws, [])
    once, again = other_view(batch), other_view(batch)
    assert torch.equal(once.draws, again.draws) and not (once.draws == draws).any()
    assert once.draws.min() >= 0 and once.draws.max() < 1
    assert len({tuple(row) for row in once.draws.tolist()}) == B
    assert set(which_of(3, torch.rand(500, NUM_DRAWS)).tolist()) == {0, 1, 2}


def step_of(batch: ClipBatch, logits: dict[str, torch.Tensor]) -> tuple[Step, list[ClipBatch]]:
    asked: list[ClipBatch] = []
    present = {name: torch.ones(B, dtype=torch.bool) for name in logits}

    def judge(other: ClipBatch) -> Judged:
        asked.append(other)
        return Judged({name: values + 1e-3 * len(asked) for name, values in logits.items()}, present)

    def refuse() -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the label bank was read")

    return Step(batch, Judged(logits, present), refuse, judge), asked


TWO = ["modalities={one: features, two: features}", "features.noise=0.5", NONE, "heads.num_clusters=3"]


@pytest.mark.parametrize(
    ("kind", "source", "num_asked"),
    [
        ("mutual_information", "joint", 0),
        ("mutual_information", "own", 1),
        ("neighbours", "joint", 1),
        ("neighbours", "own", 2),
    ],
)
def test_a_term_judges_what_its_pairs_need_and_no_labels(kind: str, source: str, num_asked: int) -> None:
    clips = Vectors()
    batch = clips.read_rows(torch.arange(B), torch.rand(B, NUM_DRAWS, generator=torch.Generator().manual_seed(1)))
    (term,) = make_terms(
        load_config(None, [*TWO, f"loss.kind={kind}", f"labelling.source={source}", "loss.neighbours=4"])
    )
    logits = {name: random_logits(number).requires_grad_() for number, name in enumerate(clips.values)}
    if term.begin is not None:
        term.begin(clips)
    step, asked = step_of(batch, logits)
    loss = term.loss(step)
    loss.total.backward()
    assert len(asked) == num_asked
    assert all(values.grad is not None and (values.grad != 0).any() for values in logits.values())
    if kind == "neighbours":
        table = find_neighbours(clips, N, ["one"] if source == "own" else ["one", "two"], 4)
        assert all(row in table[number] for number, row in enumerate(asked[0].index.tolist()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.kind=neighbours"], "labelling.method must be none with loss.kind=neighbours"),
        ([NONE], r"labelling.method must be transport, kmeans, cliques, given with loss.kind=cross_entropy"),
        ([NONE, "loss.kind=neighbours"], "needs modalities of kind features, .* got video, audio; `selavi embed`"),
        (
            [NONE, "loss.kind=mutual_information", "labelling.source=cross"],
            "labelling.source must be joint, own or concat",
        ),
        (
            [NONE, "loss.kind=mutual_information", "modalities=[features]"],
            "features.noise must be above 0, or features.drop",
        ),
        (["labelling.method=given"], "labelling.table must be the path of a table"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, words)


def test_few_clips_a_step_are_refused_or_warned_of() -> None:
    def warning(batch_size: int, devices: int) -> str:
        words = [NONE, "loss.kind=mutual_information", "heads.num_clusters=10", f"optim.batch_size={batch_size}"]
        return check_batch(load_config(None, words), devices)

    with pytest.raises(UsageError, match=r"a step has 19 clips, .* set optim.batch_size=20 or more"):
        warning(19, 1)
    assert "optim.batch_size=20 would be better" in warning(10, 2)
    assert warning(20, 2) == warning(40, 1) == ""
    assert check_batch(load_config(None, ["optim.batch_size=2"]), 1) == ""
