"""A run's model, rebuilt from its folder."""

import torch

from selavi.augment import Augment
from selavi.errors import UsageError
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.runs.record import Run

CPU = torch.device("cpu")


def load_model(run: Run, device: torch.device = CPU) -> tuple[SelaviModel, Augment]:
    """Rebuild a run's model on a device, in evaluation mode, and its augmentation.

    Raises:
        UsageError: the checkpoint's weights do not fit the run's settings.
    """
    model = SelaviModel(run.config)
    state = run.checkpoint["state_dict"].items()
    weights = {name.removeprefix("model."): value for name, value in state if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise UsageError(f"the checkpoint in {run.folder} does not fit its settings: {detail}") from error
    return model.to(device).eval(), Augment(run.config).to(device)


def untrained_model(run: Run, device: torch.device = CPU) -> tuple[SelaviModel, Augment]:
    """The model that a run began with, in evaluation mode, and its augmentation: what training has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(run.config.seed, "model"))
        model = SelaviModel(run.config)
    return model.to(device).eval(), Augment(run.config).to(device)
