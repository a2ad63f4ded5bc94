"""Features of augmented views of a run's clips, kept view by view: one that was killed goes on with the next view."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from selavi.config import Config, as_dict
from selavi.errors import UsageError
from selavi.model import SelaviModel
from selavi.tensor_files import read_tensors, write_tensors
from selavi.training.first.views import CachedViews

NOT_OF_VIEWS = ("run_dir", "resume", "data", "heads", "labelling", "loss", "optim", "trainer", "finetune")
"""Settings that change no view; of the data only the length of a clip does."""


def digest_of_views(model: SelaviModel, ids: Sequence[str], config: Config) -> str:
    """What views are made of: weights of the encoders, clips in order, and the settings of media and augmentation."""
    settings = {key: values for key, values in as_dict(config).items() if key not in NOT_OF_VIEWS}
    digest = hashlib.blake2b(repr((settings, config.data.clip_s)).encode(), digest_size=16)
    for name, values in sorted(model.encoders.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().view(-1).numpy().tobytes())
    for clip_id in ids:
        digest.update(clip_id.encode() + b"\x1f")
    return digest.hexdigest()


def keep_views(
    folder: Path,
    digest: str,
    num_views: int,
    encode: Callable[[int], tuple[CachedViews, dict[int, str]]],
) -> tuple[CachedViews, dict[int, str]]:
    """Read views, or encode those that are missing and keep them.

    Args:
        folder: where they are kept, view-0.safetensors and so on.
        digest: of digest_of_views.
        num_views: V.
        encode: number of a view -> the view, V = 1, and reasons of clips that could not be decoded, by row.

    Returns:
        All views, and why clips could not be decoded just now; views that lack some are not kept.
    """
    views, reasons = list[CachedViews](), dict[int, str]()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_views):
        path = folder / f"view-{number}.safetensors"
        view = _read(path, digest)
        if view is None:
            view, bad = encode(number)
            reasons |= bad
            if not bad:  # else what could not be decoded may be the next time
                _write(path, digest, view)
        views.append(view)
    names = list(views[0].features)
    return (
        CachedViews(
            views[0].index,
            {name: torch.cat([view.features[name] for view in views]) for name in names},
            {name: torch.cat([view.present[name] for view in views]) for name in names},
        ),
        reasons,
    )


def _read(path: Path, digest: str) -> CachedViews | None:
    """A view that is whole and was made of the same."""
    if not path.exists():
        return None
    try:
        tensors, words = read_tensors(path)
    except UsageError:
        return None
    if words.get("digest") != digest:
        return None
    names = [name.removeprefix("features.") for name in tensors if name.startswith("features.")]
    features = {name: tensors[f"features.{name}"] for name in names}
    present = {name: tensors[f"present.{name}"] for name in names}
    return CachedViews(torch.arange(features[names[0]].shape[1]), features, present)


def _write(path: Path, digest: str, view: CachedViews) -> None:
    tensors = {f"features.{name}": values for name, values in view.features.items()}
    tensors |= {f"present.{name}": values for name, values in view.present.items()}
    write_tensors(path, tensors, {"digest": digest})
