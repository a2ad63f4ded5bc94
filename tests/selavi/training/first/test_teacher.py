import pytest
import torch
from torch import Tensor

from selavi.config import Config, load_config
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from selavi.training.first import teacher
from selavi.training.first.teacher import Teacher, batch_clips, teacher_config
from selavi.training.first.views import CachedViews

CPU = torch.device("cpu")
N, K, V = 120, 4, 3
TRUTH = torch.arange(N) % K
IDS = [f"{row}.mp4" for row in range(N)]


def settings(*overrides: str) -> Config:
    words = ["heads.num_heads=2", f"heads.num_clusters={K}", "labelling.marginal=uniform", "heads.dropout=0.3"]
    return load_config(None, [*words, *overrides])


def planted(names: list[str], missing: int = 0) -> CachedViews:
    """Views of clips of K kinds, which every modality shows; the first clips lack the last modality."""
    generator = torch.Generator().manual_seed(0)
    features, present = {}, {}
    for name in names:
        centres = torch.randn(K, 12, generator=generator)
        features[name] = (centres[TRUTH] + 0.3 * torch.randn(V, N, 12, generator=generator)).half()
        present[name] = torch.ones(V, N, dtype=torch.bool)
    present[names[-1]][:, :missing] = False
    features[names[-1]][:, :missing] = 0
    return CachedViews(torch.arange(N), features, present)


def taught(config: Config, views: CachedViews) -> Tensor:
    return Teacher(config, views, IDS, CPU, lambda: None).train().labels


def nmi(labels: Tensor) -> float:
    return normalised_mutual_information(contingency_matrix(TRUTH.tolist(), labels.numpy()))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "EPOCHS", 8)


@pytest.mark.parametrize(
    ("words", "num_columns"),
    [
        ((), 2),
        (("modalities=[audio]",), 2),
        (("labelling.source=own",), 4),
        (("labelling.source=cross",), 4),
        (("labelling.source=concat",), 2),
        (("labelling.source=own", "labelling.method=kmeans"), 4),
        (("labelling.source=concat", "labelling.method=kmeans"), 2),
    ],
)
def test_what_modalities_show_is_found_by_every_recipe(words: tuple[str, ...], num_columns: int) -> None:
    config = settings(*words)
    labels = taught(config, planted(config.modalities))
    assert labels.shape == (N, num_columns)
    assert min(nmi(column) for column in labels.T) > 0.6


def test_labels_are_a_function_of_the_seed_and_nothing_else_is_touched() -> None:
    views = planted(["video", "audio"])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    labels = taught(settings(), views)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(taught(settings(), views), labels)
    assert not torch.equal(taught(settings("seed=1"), views), labels)


def test_a_clip_that_lacks_a_modality_is_labelled_by_the_other() -> None:
    labels = taught(settings(), planted(["video", "audio"], missing=30))
    assert labels.min() >= 0
    assert min(nmi(column) for column in labels.T) > 0.8


def test_under_own_labels_it_has_none_of_what_it_lacks() -> None:
    labels = taught(settings("labelling.source=own"), planted(["video", "audio"], missing=30))
    assert (labels[:30, 2:] == -1).all() and (labels[:, :2] >= 0).all() and (labels[30:] >= 0).all()


def test_the_run_s_settings_are_taken_but_for_a_few() -> None:
    config = settings("labelling.votes=raw", "labelling.fraction=0.5", "labelling.source=concat", "heads.kind=linear")
    own = teacher_config(config, ["audio"])
    assert (own.modalities, own.labelling.source, own.labelling.votes) == (["audio"], "joint", "equal")
    assert (own.labelling.fraction, own.heads.dropout, own.heads.kind) == (1.0, 0.0, "linear")
    assert (config.labelling.fraction, config.heads.dropout) == (0.5, 0.3)


@pytest.mark.parametrize(("num_clips", "expected"), [(10, 16), (576, 64), (2000, 128), (10**7, 128)])
def test_few_clips_come_in_small_steps(num_clips: int, expected: int) -> None:
    assert batch_clips(num_clips) == expected


def test_many_clips_cost_no_more_than_some_steps_and_labellings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "MOST_STEPS", 20)
    monkeypatch.setattr(teacher, "MOST_LABELLED", 5 * N)
    monkeypatch.setattr(teacher, "FEWEST_LABELLINGS", 3)
    labeller = Teacher(settings(), planted(["video", "audio"]), IDS, CPU, lambda: None)
    assert (labeller.num_steps, labeller.num_labellings) == (20, 5)
    assert labeller.train().num_labellings == 6


def test_it_stops_when_it_is_told() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Teacher(settings(), planted(["video"]), IDS, CPU, stop).train()
