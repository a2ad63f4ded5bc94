import itertools
import math

import pytest
import torch

from selavi.labelling.solver.marginals import estimate_marginal, make_marginal, order_marginal
from selavi.labelling.solver.transport import assign


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "zipf", torch.tensor([3, 1, 0, 2, 1, 1, 1, 1, 1, 1])])
def test_a_marginal_is_a_distribution(kind) -> None:
    marginal = make_marginal(kind, 10, generator=generator())
    assert marginal.shape == (10,)
    assert marginal.dtype == torch.float64
    assert marginal.sum().item() == pytest.approx(1, abs=1e-12)
    assert (marginal >= 0).all()


def test_uniform_and_zipf_have_their_shape() -> None:
    assert make_marginal("uniform", 4).tolist() == [0.25] * 4
    zipf = make_marginal("zipf", 4, zipf_exponent=2.0)
    assert (zipf[0] / zipf).tolist() == pytest.approx([1, 4, 9, 16])
    torch.testing.assert_close(make_marginal("zipf", 4, zipf_exponent=0.0), make_marginal("uniform", 4))


def test_gaussian_sizes_spread_as_asked() -> None:
    sizes = 5000 * make_marginal("gaussian", 5000, gaussian_sd=0.1, generator=generator())
    assert sizes.std().item() == pytest.approx(0.1, rel=0.05)
    assert make_marginal("gaussian", 5000, gaussian_sd=2.0, generator=generator()).min() > 0
    assert make_marginal("gaussian", 5, gaussian_sd=0.0, generator=generator()).tolist() == pytest.approx([0.2] * 5)


def test_the_draw_comes_from_the_generator_alone() -> None:
    first, same, other = (make_marginal("gaussian", 8, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_given_vector_is_normalised_in_order() -> None:
    assert make_marginal(torch.tensor([1, 3]), 2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("kind", "num_clusters", "settings", "message"),
    [
        ("flat", 4, {}, "'flat': choose one of uniform, gaussian, zipf"),
        ("uniform", 0, {}, "num_clusters"),
        ("gaussian", 4, {}, "generator"),
        ("gaussian", 4, {"gaussian_sd": -0.1, "generator": generator()}, "gaussian_sd .* -0.1"),
        ("zipf", 4, {"zipf_exponent": math.nan}, "zipf_exponent"),
        (torch.ones(3), 4, {}, r"\(4,\), got \(3,\)"),
        (torch.tensor([1.0, -1.0]), 2, {}, "not negative"),
        (torch.tensor([1.0, math.inf]), 2, {}, "finite"),
        (torch.zeros(2), 2, {}, "not all 0"),
    ],
)
def test_unusable_marginals_are_refused(kind, num_clusters: int, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_marginal(kind, num_clusters, **settings)


def test_aligned_gives_the_most_to_the_heaviest() -> None:
    marginal = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    masses = torch.tensor([5.0, 1.0, 9.0, 2.0])
    assert order_marginal(marginal, masses, "aligned").tolist() == [0.3, 0.1, 0.4, 0.2]
    assert order_marginal(marginal, masses, "none").tolist() == marginal.tolist()


def test_aligned_is_the_best_of_all_pairings() -> None:
    marginal = make_marginal("gaussian", 5, gaussian_sd=0.5, generator=generator(3))
    masses = torch.rand(5, generator=generator(4), dtype=torch.float64)
    best = max((masses * marginal[list(p)].log()).sum().item() for p in itertools.permutations(range(5)))
    aligned = order_marginal(marginal, masses, "aligned")
    assert (masses * aligned.log()).sum().item() == pytest.approx(best)


def test_inverse_is_what_the_official_code_imposes() -> None:
    marginal = make_marginal("gaussian", 50, generator=generator(5))
    masses = torch.rand(50, generator=generator(6))
    aligned, inverse = (order_marginal(marginal, masses, order) for order in ("aligned", "inverse"))
    assert torch.equal(aligned.argsort(), masses.argsort())
    assert torch.equal(inverse.argsort(descending=True), masses.argsort())
    # Its target is proportional to one over the sizes that it sorted like the masses.
    torch.testing.assert_close(inverse * aligned, (inverse * aligned)[:1].expand(50))
    assert inverse.sum().item() == pytest.approx(1, abs=1e-12)


def test_the_order_decides_which_cluster_grows() -> None:
    logits = torch.randn(2000, 6, generator=generator(7)) + torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    scores = logits.log_softmax(1)
    masses = scores.exp().mean(0)
    marginal = make_marginal("zipf", 6, zipf_exponent=0.5)
    sizes = {
        order: assign(scores, order_marginal(marginal, masses, order)).labels.bincount(minlength=6)
        for order in ("aligned", "inverse")
    }
    ranks = masses.argsort()
    assert (sizes["aligned"][ranks].diff() > 0).all()
    assert (sizes["inverse"][ranks].diff() < 0).all()


def test_equal_masses_are_ranked_by_number() -> None:
    marginal = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    assert order_marginal(marginal, torch.ones(3), "aligned").tolist() == [0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    ("marginal", "masses", "order", "message"),
    [
        (torch.ones(3) / 3, torch.ones(3), "sorted", "'sorted': choose one of aligned, inverse, none"),
        (torch.ones(3) / 3, torch.ones(4), "aligned", r"got \(3,\) and \(4,\)"),
        (torch.ones(2) / 2, torch.tensor([1.0, math.nan]), "aligned", "entry 1 is"),
        (torch.tensor([1.0, 0.0]), torch.ones(2), "inverse", "one is 0"),
    ],
)
def test_unusable_orders_are_refused(marginal, masses, order, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order_marginal(marginal, masses, order)


def test_estimated_sizes_lie_between_the_masses_and_equal_ones() -> None:
    masses = torch.tensor([6.0, 3.0, 1.0, 0.0])
    torch.testing.assert_close(
        estimate_marginal(masses, 0.5), torch.tensor([0.425, 0.275, 0.175, 0.125], dtype=torch.float64)
    )
    torch.testing.assert_close(estimate_marginal(masses, 1.0), torch.full((4,), 0.25, dtype=torch.float64))
    for smoothing in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"smoothing must be in \(0, 1\]"):
            estimate_marginal(masses, smoothing)
