"""Features of augmented views of a run's clips, kept view by view: one that was killed goes on with the next view."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
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
    folder: Path, digest: str, numbers: Iterable[int], encode: Callable[[int], tuple[CachedViews, dict[int, str]]]
) -> None:
    """Encode those views that are not kept yet, and keep each as it ends.

    Args:
        folder: where they are kept, view-0.safetensors and so on.
        digest: of digest_of_views.
        numbers: of the views; several processes may each keep some.
        encode: number of a view -> the view, V = 1, and reasons of clips that could not be decoded, by row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        if _read(_path(folder, number), digest) is None:
            view, reasons = encode(number)
            tensors = {f"features.{name}": values for name, values in view.features.items()}
            tensors |= {f"present.{name}": values for name, values in view.present.items()}
            write_tensors(_path(folder, number), tensors, {"digest": digest, "bad": json.dumps(reasons)})


def read_views(folder: Path, digest: str, num_views: int) -> tuple[CachedViews, dict[int, str]]:
    """Read all V views that are kept, and why clips of theirs could not be decoded, by row.

    Raises:
        UsageError: one is missing.
    """
    views, reasons = list[CachedViews](), dict[int, str]()
    for number in range(num_views):
        kept = _read(_path(folder, number), digest)
        if kept is None:
            about = f"{_path(folder, number)} is missing or of other encoders, though some process has just kept it"
            raise UsageError(f"{about}: every process needs this folder in one place, and nobody else may write in it")
        views.append(kept[0])
        reasons |= kept[1]
    names = list(views[0].features)
    features = {name: torch.cat([view.features[name] for view in views]) for name in names}
    present = {name: torch.cat([view.present[name] for view in views]) for name in names}
    return CachedViews(views[0].index, features, present), reasons


def _path(folder: Path, number: int) -> Path:
    return folder / f"view-{number}.safetensors"


def _read(path: Path, digest: str) -> tuple[CachedViews, dict[int, str]] | None:
    """A view that is whole and was made of the same, and why clips of it could not be decoded."""
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
    reasons = {int(row): reason for row, reason in json.loads(words.get("bad", "{}")).items()}
    return CachedViews(torch.arange(features[names[0]].shape[1]), features, present), reasons
