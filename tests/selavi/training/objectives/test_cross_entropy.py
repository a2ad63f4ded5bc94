import pytest
import torch

from selavi.training.objectives.cross_entropy import multi_head_loss, selavi_loss

H, B, K = 3, 6, 4


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, K, (B, H), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def logits() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(H, B, K, generator=generator).requires_grad_() for name in ("video", "audio")}


def by_hand(logits: torch.Tensor, labels: torch.Tensor, rows: list[int]) -> torch.Tensor:
    terms = [-logits[h, b].log_softmax(0)[labels[b, h]] for h in range(H) for b in rows]
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("reduce", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_it_is_the_cross_entropy_of_all_modalities(
    logits: dict[str, torch.Tensor], labels: torch.Tensor, reduce: str, factor: float
) -> None:
    everyone = torch.ones(B, dtype=torch.bool)
    rows = list(range(B))
    expected = factor * (by_hand(logits["video"], labels, rows) + by_hand(logits["audio"], labels, rows))
    loss = selavi_loss(logits, labels, {"video": everyone, "audio": everyone}, reduce=reduce)
    torch.testing.assert_close(loss, expected)


def test_two_modalities_learn_as_fast_as_one(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    """The gradient of each is that of the modality alone, so that a rate means the same for SeLa and SeLaVi."""
    present = {"video": torch.ones(B, dtype=torch.bool), "audio": torch.tensor([True] * 4 + [False] * 2)}
    selavi_loss(logits, labels, present).backward()
    for name, values in logits.items():
        alone = values.detach().clone().requires_grad_()
        selavi_loss({name: alone}, labels, {name: present[name]}).backward()
        torch.testing.assert_close(values.grad, alone.grad)


def test_missing_clips_do_not_count(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    present = torch.tensor([True, False, True, True, False, True])
    torch.testing.assert_close(
        multi_head_loss(logits["video"], labels, present), by_hand(logits["video"], labels, [0, 2, 3, 5])
    )


def test_a_missing_modality_does_not_train(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    present = {"video": torch.ones(B, dtype=torch.bool), "audio": torch.tensor([True] * 4 + [False] * 2)}
    selavi_loss(logits, labels, present).backward()
    assert logits["audio"].grad is not None and logits["video"].grad is not None
    assert (logits["audio"].grad[:, 4:] == 0).all()
    assert (logits["audio"].grad[:, :4] != 0).all()
    assert (logits["video"].grad != 0).all()


def test_a_batch_without_a_modality_gives_a_loss_of_zero_for_it(labels: torch.Tensor) -> None:
    logits = torch.full((H, B, K), 50.0, requires_grad=True)
    loss = multi_head_loss(logits, labels, torch.zeros(B, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_one_modality_is_its_own_sum(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    everyone = torch.ones(B, dtype=torch.bool)
    torch.testing.assert_close(
        selavi_loss({"audio": logits["audio"]}, labels, {"audio": everyone}),
        multi_head_loss(logits["audio"], labels, everyone),
    )


def test_low_precision_logits_are_summed_in_float32(labels: torch.Tensor) -> None:
    logits = torch.randn(H, B, K, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = multi_head_loss(logits, labels, torch.ones(B, dtype=torch.bool))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, by_hand(logits.float(), labels, list(range(B))))


def test_a_clip_without_a_label_does_not_count() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1], [2, -1], [-1, -1], [1, 1], [0, 2]])
    present = torch.ones(5, dtype=torch.bool)
    counted = [(h, b) for b in range(5) for h in range(2) if labels[b, h] >= 0]
    expected = torch.stack([-logits[h, b].log_softmax(0)[labels[b, h]] for h, b in counted]).mean()
    torch.testing.assert_close(multi_head_loss(logits, labels, present), expected)
    assert multi_head_loss(logits, torch.full_like(labels, -1), present).item() == 0


def test_each_modality_learns_its_own_labels(logits: dict[str, torch.Tensor]) -> None:
    everyone = torch.ones(B, dtype=torch.bool)
    both = torch.randint(0, K, (B, 2 * H), generator=torch.Generator().manual_seed(4))
    expected = multi_head_loss(logits["video"], both[:, :H], everyone) + multi_head_loss(
        logits["audio"], both[:, H:], everyone
    )
    torch.testing.assert_close(selavi_loss(logits, both, {"video": everyone, "audio": everyone}), expected)
    with pytest.raises(ValueError, match=r"of 3 heads, or of 3 for each of video, audio, got \(6, 5\)"):
        selavi_loss(logits, both[:, :5], {"video": everyone, "audio": everyone})


def test_weights_say_how_much_a_label_counts(logits: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    everyone = {name: torch.ones(B, dtype=torch.bool) for name in logits}
    weights = torch.rand(B, H, generator=torch.Generator().manual_seed(5))
    each = torch.stack([-logits["video"][h, b].log_softmax(0)[labels[b, h]] for b in range(B) for h in range(H)])
    expected = (each * weights.flatten()).sum() / weights.sum()
    torch.testing.assert_close(multi_head_loss(logits["video"], labels, everyone["video"], weights), expected)
    torch.testing.assert_close(
        selavi_loss(logits, labels, everyone, torch.ones(B, H)), selavi_loss(logits, labels, everyone)
    )
    own = torch.cat([weights, 3 * weights], 1)  # the scale of a modality's weights does not matter
    torch.testing.assert_close(
        selavi_loss(logits, torch.cat([labels, labels], 1), everyone, own),
        selavi_loss(logits, labels, everyone, weights),
    )
