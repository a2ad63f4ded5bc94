from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from selavi.config import Config, load_config
from selavi.errors import NumericError
from selavi.labelling import labeller, memory
from selavi.labelling.alignment import align_all
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable, collect_features
from selavi.labelling.labeller import Labeller
from selavi.labelling.probe import probe_scores
from selavi.labelling.solver.kmeans import unit_features
from selavi.labelling.solver.transport import assign

N, D, K = 60, 6, 4


def settings(*overrides: str) -> Config:
    return load_config(None, ["heads.num_heads=4", f"heads.num_clusters={K}", "labelling.marginal=uniform", *overrides])


class World:
    """Clips with two modalities and linear heads for each; counts what the labeller asks for."""

    def __init__(self, config: Config, signal: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.config = config
        self.truth = torch.arange(N) % K
        centres = signal * torch.randn(K, D, generator=generator)
        self.clean = {name: centres[self.truth] for name in config.modalities}
        self.weights = {name: torch.randn(4, K, D, generator=generator) for name in config.modalities}
        self.present = {name: torch.ones(N, dtype=torch.bool) for name in config.modalities}
        self.passes: list[int] = []
        self.heads_asked: list[int] = []
        self.permuted: list[tuple[str, int]] = []

    def features(self, pass_number: int) -> dict[str, Tensor]:
        """A view: other noise for each pass."""
        generator = torch.Generator().manual_seed(pass_number)
        return {name: clean + 0.5 * torch.randn(N, D, generator=generator) for name, clean in self.clean.items()}

    def collect(self, pass_number: int) -> FeatureTable:
        self.passes.append(pass_number)
        return FeatureTable(torch.arange(N), self.features(pass_number), self.present)

    def head_logits(self, features: Mapping[str, Tensor], only: list[int]) -> dict[str, Tensor]:
        self.heads_asked += only
        return {name: torch.einsum("nd,hkd->hnk", features[name], self.weights[name][only]) for name in features}

    def permute(self, modality: str, head: int, permutation: Tensor) -> None:
        self.permuted.append((modality, head))
        self.weights[modality][head] = self.weights[modality][head, permutation]

    def relabel(self, bank: LabelBank, statistics: bool = False):
        return Labeller(self.config).relabel(bank, self.collect, self.head_logits, self.permute, statistics)


@pytest.fixture
def bank() -> LabelBank:
    return LabelBank([str(n) for n in range(N)], 4, K)


def test_every_clip_gets_a_label_under_every_head(bank: LabelBank) -> None:
    world = World(settings())
    report, sure = world.relabel(bank)
    assert bank.labels.shape == (N, 4)
    assert bank.labels.min() >= 0 and bank.labels.max() < K
    assert sorted(set(world.heads_asked)) == [0, 1, 2, 3]
    assert (report.number, bank.num_labellings) == (0, 1)
    assert report.converged and report.marginal_error <= 1e-6
    assert report.churn != report.churn  # nan: there was nothing before
    assert sure is None
    assert 1 <= report.used_clusters <= K


def test_churn_is_the_share_of_changed_labels(bank: LabelBank) -> None:
    world = World(settings())
    world.relabel(bank)
    before = bank.labels.clone()
    report, _ = world.relabel(bank)
    assert report.number == 1
    assert report.churn == pytest.approx((before != bank.labels).float().mean().item())


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_modality_is_sela(bank: LabelBank, modality: str) -> None:
    """The labels are the optimal transport of that modality's log-probabilities (SeLa)."""
    config = settings(f"modalities=[{modality}]", "labelling.head_groups=1")
    world = World(config)
    world.relabel(bank)
    features = world.features(0)
    assert list(features) == [modality]
    uniform = torch.full((K,), 1 / K)
    for head in range(4):
        scores = world.head_logits(features, [head])[modality][0].log_softmax(1)
        assert torch.equal(bank.labels[:, head].long(), assign(scores, uniform, sharpness=20.0).labels)


def labels_by_hand(world: World, weights: dict[str, float], head: int) -> Tensor:
    tables = world.head_logits(world.features(0), [head])
    total = sum(weights.values())
    scores = sum(weights[name] / total * tables[name][0].log_softmax(1) for name in tables)
    return assign(scores, torch.full((K,), 1 / K), sharpness=20.0).labels


def test_modalities_are_averaged_by_their_weights(bank: LabelBank) -> None:
    config = settings(
        "labelling.head_groups=1",
        "labelling.weights={video: 3, audio: 1}",
        "labelling.align_modalities=false",
        "labelling.votes=raw",
    )
    world = World(config, signal=0.5)
    world.relabel(bank)
    for head in range(4):
        assert torch.equal(bank.labels[:, head].long(), labels_by_hand(world, {"video": 3.0, "audio": 1.0}, head))
    equal = torch.stack([labels_by_hand(world, {"video": 1.0, "audio": 1.0}, head) for head in range(4)], 1)
    assert not torch.equal(bank.labels.long(), equal), "the weights made no difference: a weak test"


def test_a_clip_without_a_modality_is_labelled_by_the_other(bank: LabelBank) -> None:
    """Whatever stands in the rows of a missing modality, also nan, changes nothing."""
    config = settings("labelling.align_modalities=false", "labelling.head_groups=1")
    tables = []
    for rubbish in (0.0, 1e4, float("nan")):
        world = World(config)
        world.present["audio"][::3] = False
        world.clean["audio"] = world.clean["audio"].masked_fill(~world.present["audio"][:, None], rubbish)
        other = LabelBank(bank.ids, 4, K)
        _, sure = world.relabel(other, statistics=True)
        assert sure is not None
        assert sure.modality_agreement[::3].isnan().all()
        assert not sure.modality_agreement[1::3].isnan().any()
        assert not sure.confidence.isnan().any()
        tables.append(other.labels)
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])


def test_statistics_belong_to_the_plan(bank: LabelBank) -> None:
    world = World(settings("labelling.head_groups=1", "modalities=[video]"), signal=0.3)
    _, sure = world.relabel(bank, statistics=True)
    assert sure is not None
    for head in range(4):
        scores = world.head_logits(world.features(0), [head])["video"][0].log_softmax(1)
        plan = (20.0 * scores.double() + bank.rule.potentials[head]).softmax(1)
        top = plan.topk(2).values
        torch.testing.assert_close(sure.confidence[:, head].double(), top[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(sure.margin[:, head].double(), top[:, 0] - top[:, 1], atol=1e-5, rtol=0)
        entropy = torch.special.entr(plan).sum(1)
        torch.testing.assert_close(sure.entropy[:, head].double(), entropy, atol=1e-4, rtol=0)
        assert torch.equal(plan.argmax(1), bank.labels[:, head].long())


def test_heads_are_probed_when_labels_are_final_and_not_before(bank: LabelBank) -> None:
    world = World(settings("labelling.head_groups=2"))
    world.relabel(bank)
    assert bank.probe.isnan().all()
    world.relabel(bank, statistics=True)
    assert (bank.probe > 0.5).all() and (bank.probe <= 1).all()
    for group, heads in enumerate(Labeller(world.config).head_groups(1)):
        clips = FeatureTable(torch.arange(N), world.features(2 + group), world.present)
        assert torch.equal(bank.probe[heads], probe_scores(clips, bank.labels[:, heads].long(), K))
    world.relabel(bank)
    assert bank.probe.isnan().all()


def test_heads_of_different_modalities_are_not_compared_by_probe() -> None:
    config = settings("labelling.source=own")
    bank = LabelBank([str(n) for n in range(N)], config.num_label_heads, K)
    World(config).relabel(bank, statistics=True)
    assert bank.probe.isnan().all()


def test_groups_of_heads_see_views_of_their_own(bank: LabelBank) -> None:
    world = World(settings("labelling.head_groups=3"))
    world.relabel(bank)
    world.relabel(bank)
    assert world.passes == [0, 1, 2, 3, 4, 5]


def test_heads_are_split_anew_for_each_labelling() -> None:
    labeller = Labeller(settings("labelling.head_groups=3"))
    splits = [labeller.head_groups(number) for number in range(8)]
    for groups in splits:
        assert len(groups) == 3
        assert sorted(head for group in groups for head in group) == [0, 1, 2, 3]
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert len({str(groups) for groups in splits}) > 3
    assert splits == [Labeller(settings("labelling.head_groups=3")).head_groups(number) for number in range(8)]
    other = Labeller(settings("labelling.head_groups=3", "seed=1"))
    assert splits != [other.head_groups(number) for number in range(8)]


def test_modalities_are_aligned_once_before_the_first_labelling(bank: LabelBank) -> None:
    world = World(settings())
    world.weights["audio"] = world.weights["video"].flip(1)  # the same clusters under other names
    world.relabel(bank)
    assert sorted(world.permuted) == [("audio", head) for head in range(4)]
    torch.testing.assert_close(world.weights["audio"], world.weights["video"])
    world.relabel(bank)
    assert len(world.permuted) == 4


@pytest.mark.parametrize("overrides", [["labelling.align_modalities=false"], ["modalities=[audio]"]])
def test_alignment_can_be_left_out(bank: LabelBank, overrides: list[str]) -> None:
    world = World(settings(*overrides))
    world.relabel(bank)
    assert world.permuted == []


def test_alignment_uses_clips_that_have_both_modalities(bank: LabelBank) -> None:
    world = World(settings())
    world.weights["audio"] = world.weights["video"].flip(1)
    world.present["audio"][: N // 2] = False
    world.clean["audio"] = world.clean["audio"].masked_fill(~world.present["audio"][:, None], float("nan"))
    world.relabel(bank)
    torch.testing.assert_close(world.weights["audio"], world.weights["video"])


def test_each_process_aligns_other_heads_and_all_have_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, num_processes = [3, 0, 2, 1, 4], 2
    generator = torch.Generator().manual_seed(0)
    costs = {head: {("video", "audio"): torch.rand(K, K, generator=generator).double()} for head in heads}
    clips = FeatureTable(torch.arange(1), {}, {})
    votes = SimpleNamespace(voters=["video", "audio"], num_clusters=K, clips=clips, alignment_costs=costs.__getitem__)
    solved: list[int] = []

    def run(rank: int, others: list[Tensor]) -> tuple[list[Tensor], dict[int, list[int]]]:
        """What a process sends, where it gets the sums of its own and what others have sent."""
        sent, given = [], {}

        def all_sum(tensor: Tensor) -> Tensor:
            sent.append(tensor)
            return tensor + others[len(sent) - 1] if others else tensor

        monkeypatch.setattr(labeller, "rank", lambda: rank)
        monkeypatch.setattr(labeller, "world_size", lambda: num_processes)
        monkeypatch.setattr(labeller, "all_sum", all_sum)
        monkeypatch.setattr(labeller, "align_all", lambda cost, names: solved.append(1) or align_all(cost, names))
        labeller._align(votes, heads, lambda branch, head, order: given.update({head: order.tolist()}))
        return sent, given

    sent = [run(rank, [])[0] for rank in range(num_processes)]
    assert len(solved) == len(heads)  # each once, by one of the two
    expected = {head: align_all(costs[head], ["video", "audio"])["audio"].tolist() for head in heads}
    for rank in range(num_processes):
        assert run(rank, sent[1 - rank])[1] == expected


def test_statistics_take_memory_in_a_last_labelling_of_the_first_process_alone(
    bank: LabelBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert labeller.Draft(bank).statistics is None
    assert labeller.Draft(bank, tmp_path).statistics.shape == (4, N, 4)
    saved = labeller.Draft(bank, tmp_path).state_dict()
    assert labeller.Draft.from_state(bank, saved, tmp_path).statistics.shape == (4, N, 4)
    monkeypatch.setattr(labeller, "rank", lambda: 1)
    assert labeller.Draft(bank, tmp_path).statistics is None
    assert labeller.Draft.from_state(bank, saved, tmp_path).statistics is None


def sizes(bank: LabelBank) -> list[list[int]]:
    return [torch.bincount(column, minlength=K).tolist() for column in bank.labels.T]


def test_cluster_sizes_follow_the_marginal(bank: LabelBank) -> None:
    shares = [0.55, 0.25, 0.15, 0.05]
    world = World(settings(f"labelling.marginal={shares}", "labelling.sharpness=60"))
    world.relabel(bank)
    for found in sizes(bank):
        for size, share in zip(sorted(found, reverse=True), shares, strict=True):
            assert size == pytest.approx(share * N, abs=4)


def test_a_labelling_that_does_not_converge_says_so(bank: LabelBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*args: object, **settings: object) -> object:
        return assign(*args, **settings, max_passes=1)  # type: ignore[arg-type]

    monkeypatch.setattr("selavi.labelling.methods.transport.assign", impatient)
    report, _ = World(settings()).relabel(bank)
    assert not report.converged
    assert report.marginal_error > 1e-6


def test_rows_come_in_any_order_and_in_parts(bank: LabelBank) -> None:
    """What a loader yields, in batches and shuffled, gives the labels of the whole table."""
    config = settings("labelling.head_groups=1")
    plain = LabelBank(bank.ids, 4, K)
    World(config).relabel(plain)
    world = World(config)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))

    def in_parts(pass_number: int) -> FeatureTable:
        features = world.features(pass_number)
        parts = [
            (rows, {n: f[rows] for n, f in features.items()}, {n: p[rows] for n, p in world.present.items()})
            for rows in order.split(7)
        ]
        return collect_features(parts, dict.fromkeys(config.modalities, D), torch.device("cpu"))

    Labeller(config).relabel(bank, in_parts, world.head_logits, world.permute)
    assert (bank.labels == plain.labels).float().mean() > 0.99  # sums in another order round otherwise


def test_a_clip_that_was_not_collected_is_noticed(bank: LabelBank) -> None:
    world = World(settings())
    whole: Callable[[int], FeatureTable] = world.collect

    def all_but_one(pass_number: int) -> FeatureTable:
        table = whole(pass_number)
        return FeatureTable(
            table.index[1:],
            {n: f[1:] for n, f in table.features.items()},
            {n: p[1:] for n, p in table.present.items()},
        )

    with pytest.raises(AssertionError, match="without a label"):
        Labeller(world.config).relabel(bank, all_but_one, world.head_logits, world.permute)


def test_no_batches_give_an_empty_table() -> None:
    table = collect_features([], {"video": 3}, torch.device("cpu"))
    assert table.index.shape == (0,)
    assert table.features["video"].shape == (0, 3)
    assert table.present["video"].shape == (0,)


def test_scores_that_are_not_finite_stop_the_run(bank: LabelBank) -> None:
    world = World(settings())
    world.weights["video"][:] = float("nan")
    with pytest.raises(NumericError, match=r"not finite: training has diverged; lower optim\.lr"):
        world.relabel(bank)


def describe_memory(config: Config, num_clips: int) -> str:
    return Labeller(config).method.describe_memory(config, num_clips)


def test_memory_is_a_topic_where_it_is_large() -> None:
    assert describe_memory(settings(), 80) == ""  # "a float32 table of 6.4e-06 GB" helped nobody
    said = describe_memory(settings("heads.num_clusters=309", "labelling.marginal=uniform"), 170_752)
    assert said.startswith("labelling holds a float32 table of 211 MB, at most ")
    by_kmeans = settings("labelling.method=kmeans", "labelling.source=own")
    assert describe_memory(by_kmeans, 80) == ""
    assert "twice" in describe_memory(by_kmeans, 10**6)


@pytest.mark.slow
def test_scores_over_the_budget_give_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_ROWS", 7)
    monkeypatch.setattr(memory, "WORTH_SAYING", 0)
    found = {}
    for budget, told in (("8", "a float32 table"), (str(4e-9 * N * K), "a float16 table"), ("1e-9", "computed anew")):
        config = settings(f"labelling.memory_gb={budget}")
        bank = LabelBank([str(n) for n in range(N)], 4, K)
        _, sure = World(config).relabel(bank, statistics=True)
        assert told in describe_memory(config, N)
        found[told] = bank.labels, sure
    labels, sure = found.pop("a float32 table")
    for other_labels, other_sure in found.values():
        assert torch.equal(labels, other_labels)
        assert torch.allclose(sure.confidence, other_sure.confidence, atol=0.02)  # float16 moves potentials


def test_a_partial_labelling_leaves_clips_out_until_the_last_one(bank: LabelBank) -> None:
    world = World(settings("labelling.fraction=0.4", "labelling.num_labellings=3"))
    shares = []
    for _ in range(3):
        report, _ = world.relabel(bank)
        assert report.converged
        shares.append((bank.labels >= 0).float().mean().item())
    assert 0 < shares[0] < 0.6  # the soft mass is 0.4; so few clips round coarsely
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("override", ["labelling.marginal=estimated", "labelling.size_strength=1"])
def test_sizes_may_follow_the_clips(bank: LabelBank, override: str) -> None:
    report, _ = World(settings(override)).relabel(bank)
    assert report.converged
    assert bank.labels.min() >= 0


# ---- whose features make a label, and how ----


def wide_bank(config: Config) -> LabelBank:
    return LabelBank([str(n) for n in range(N)], config.num_label_heads, K)


def alone(world: World, name: str, head: int) -> Tensor:
    """Labels by transport of one modality's log-probabilities."""
    scores = world.head_logits(world.features(0), [head])[name][0].log_softmax(1)
    return assign(scores, torch.full((K,), 1 / K), sharpness=20.0).labels


@pytest.mark.parametrize(("source", "makers"), [("own", ("video", "audio")), ("cross", ("audio", "video"))])
def test_each_modality_has_labels_of_its_own(source: str, makers: tuple[str, str]) -> None:
    config = settings(f"labelling.source={source}", "labelling.head_groups=1")
    world, bank = World(config, signal=0.5), wide_bank(config)
    world.relabel(bank)
    assert bank.labels.shape == (N, 8)
    assert world.permuted == []  # they never vote together
    for number, maker in enumerate(makers):
        for head in range(4):
            assert torch.equal(bank.labels[:, 4 * number + head].long(), alone(world, maker, head))
    assert not torch.equal(bank.labels[:, :4], bank.labels[:, 4:])
    # potentials stay with the heads whose scores they belong to, whoever learns the labels
    for number, name in enumerate(("video", "audio")):
        scores = world.head_logits(world.features(0), [2])[name][0].log_softmax(1)
        plan = (20.0 * scores.double() + bank.rule.potentials[4 * number + 2]).softmax(1)
        torch.testing.assert_close(plan.mean(0), torch.full((K,), 1 / K, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_clip_without_the_modality_that_labels_has_no_label_until_the_end() -> None:
    for source, lacking in (("own", slice(4, 8)), ("cross", slice(0, 4))):
        for method in ("transport", "kmeans"):
            config = settings(f"labelling.source={source}", f"labelling.method={method}", "labelling.head_groups=1")
            world, bank = World(config), wide_bank(config)
            world.present["audio"][::3] = False
            world.clean["audio"] = world.clean["audio"].masked_fill(~world.present["audio"][:, None], float("nan"))
            world.relabel(bank)
            expected = torch.zeros(N, 8, dtype=torch.bool)
            expected[::3, lacking] = True
            assert torch.equal(bank.labels == -1, expected)
            _, sure = world.relabel(bank, statistics=True)
            assert sure is not None
            assert bank.labels.min() >= 0
            assert not sure.confidence.isnan().any()
            if source == "own":  # nobody knows: a guess
                assert (bank.labels[::3, 4:] == bank.labels[0, 4:]).all()
                if method == "kmeans":
                    torch.testing.assert_close(sure.confidence[::3, 4:], torch.full((N // 3, 4), 1 / K))
            else:  # the picture's heads say what they have learned
                said = world.head_logits(world.features(1), list(range(4)))["video"].log_softmax(2)
                said = 20 * said.double() + bank.rule.potentials[:4, None] if method == "transport" else said.double()
                assert torch.equal(bank.labels[::3, :4].long(), said.argmax(2).T[::3])


@pytest.mark.parametrize("source", ["own", "cross", "concat"])
def test_kmeans_labels_are_of_the_features(source: str) -> None:
    config = settings(f"labelling.source={source}", "labelling.method=kmeans")
    world, bank = World(config), wide_bank(config)
    world.weights = {name: torch.full_like(values, torch.nan) for name, values in world.weights.items()}
    world.clean["video"] = world.clean["video"][torch.randperm(N, generator=torch.Generator().manual_seed(0))]
    report, _ = world.relabel(bank)
    assert report.marginal_error is None and report.num_passes >= 2
    assert (bank.rule.potentials == 0).all()

    def finds(column: int) -> bool:
        matrix = torch.zeros(K, K).index_put_(
            (world.truth, bank.labels[:, column].long()), torch.ones(N), accumulate=True
        )
        return bool((matrix.amax(1) / matrix.sum(1) > 0.9).all())

    found = [finds(column) for column in range(config.num_label_heads)]
    # The picture's clips were shuffled against the truth, so only the sound's features can find it.
    knowing = {"own": [False] * 4 + [True] * 4, "cross": [True] * 4 + [False] * 4, "concat": [False] * 4}
    assert sum(a == b for a, b in zip(found, knowing[source], strict=True)) >= len(found) - 1  # a start may be poor


def test_concatenated_features_are_clustered_side_by_side() -> None:
    config = settings("labelling.source=concat", "labelling.method=kmeans", "labelling.head_groups=1")
    world, bank = World(config, signal=1.0), wide_bank(config)
    world.relabel(bank)
    features = world.features(0)
    everywhere = torch.ones(N, dtype=torch.bool)
    unit = torch.cat([unit_features(features[name], everywhere) for name in ("video", "audio")], 1)
    for column in bank.labels.T.long():
        means = torch.stack([unit[column == k].mean(0) for k in range(K)])
        nearest = torch.cdist(unit, means).argmin(1)
        assert (nearest == column).float().mean() > 0.95  # the last pass may have moved one or two


def test_clusters_keep_their_names_from_one_clustering_to_the_next() -> None:
    config = settings("labelling.source=concat", "labelling.method=kmeans")
    world, bank = World(config), wide_bank(config)
    world.relabel(bank)
    report, _ = world.relabel(bank)  # other views of the same clips
    assert report.churn < 0.1


def test_clips_of_small_clusters_weigh_more_under_kmeans() -> None:
    config = settings("modalities=[video]", "labelling.method=kmeans", "labelling.head_groups=1")
    world, bank = World(config), wide_bank(config)
    world.clean["video"][: N // 2] = world.clean["video"][0]  # half of the clips alike
    world.relabel(bank)
    weights = bank.clip_weights(torch.arange(N))
    for head in range(4):
        column = bank.labels[:, head].long()
        each = torch.zeros(K).index_add(0, column, weights[:, head])
        used = each[each > 0]
        torch.testing.assert_close(used, torch.full_like(used, N / len(used)))
    assert weights.max() > 1.5 * weights.min()


def test_features_that_are_not_finite_stop_the_run() -> None:
    config = settings("labelling.source=concat", "labelling.method=kmeans")
    world = World(config)
    world.clean["audio"][3] = float("nan")
    with pytest.raises(NumericError, match=r"features that are not finite: training has diverged; lower optim\.lr"):
        world.relabel(wide_bank(config))
