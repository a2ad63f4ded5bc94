import pytest
import torch

from selavi.labelling.solver.secants import Secants


def test_without_secants_the_step_is_newtons() -> None:
    gradient = torch.tensor([1.0, -3.0, 2.0])
    assert torch.equal(Secants(4).step(gradient, torch.neg), -gradient)


def test_a_change_along_the_last_step_is_answered_by_that_step() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    secants = Secants(3)
    for _ in range(5):
        step = torch.randn(6, generator=generator, dtype=torch.float64)
        secants.add(step, hessian @ step)
    torch.testing.assert_close(secants.step(hessian @ step, torch.neg), -step)
    secants.clear()
    assert torch.equal(secants.step(step, torch.neg), -step)


def test_a_step_along_which_nothing_changes_is_not_kept() -> None:
    secants = Secants(3)
    secants.add(torch.ones(4), torch.zeros(4))
    assert torch.equal(secants.step(torch.ones(4), torch.neg), -torch.ones(4))


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_a_poor_hessian_is_made_good(scale: float) -> None:
    """A quadratic in six dimensions whose Hessian is taken for a multiple of the identity."""
    curvature = torch.arange(1.0, 7.0, dtype=torch.float64) * scale
    where = torch.ones(6, dtype=torch.float64)
    secants = Secants(8)
    for _ in range(25):
        gradient = curvature * where
        step = secants.step(gradient, lambda vector: -vector / (6 * scale))
        secants.add(step, curvature * step)
        where = where + step
    assert (curvature * where).abs().max() < 1e-8 * scale
