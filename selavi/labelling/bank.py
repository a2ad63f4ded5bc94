"""The label of every training clip under every head.  The Labeller alone writes it, training_step alone reads it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selavi.distributed import fail_together
from selavi.errors import UsageError
from selavi.ids import ClipIds, describe_changes
from selavi.labelling.rule import LabelRule
from selavi.runs.stored import read_all, read_rows, read_shared
from selavi.transfers import send

_IDS_AT_ONCE = 1 << 16


def probe_of_bank(state: Mapping[str, Any]) -> np.ndarray | None:
    """The (H,) probe scores in a saved bank; None in one of an earlier version."""
    return state["probe"].numpy() if "probe" in state else None


def ids_of_bank(state: Mapping[str, Any]) -> ClipIds:
    """The ids of the clips in a saved bank; earlier versions kept them as a list.

    Raises:
        UsageError: they are damaged.
    """
    saved = state["ids"]
    if isinstance(saved, list):
        return ClipIds(saved)
    saved = read_all(dict(saved))
    try:
        return ClipIds.from_bytes(saved["text"].numpy(), saved["lengths"].numpy())
    except ValueError as error:
        raise UsageError(f"the checkpoint's ids are damaged ({error}): take the checkpoint before it") from error


def _are_saved(ids: ClipIds, saved: Any) -> bool:
    """Whether these are the ids in a saved bank, of which some are read at a time."""
    if isinstance(saved, list):
        return ids == ClipIds(saved)
    text, lengths = saved["text"], saved["lengths"]
    if lengths.shape != (len(ids),):
        return False
    at = 0
    for first in range(0, len(ids), _IDS_AT_ONCE):
        own_text, own_lengths = ids[first : first + _IDS_AT_ONCE].as_bytes()
        begin, at = at, at + len(own_text)
        if at > text.shape[0] or not (
            np.array_equal(own_lengths, read_rows(lengths, first, first + len(own_lengths)).numpy())
            and np.array_equal(own_text, read_rows(text, begin, at).numpy())
        ):
            return False
    return at == text.shape[0]


def _as_tensors(ids: ClipIds) -> dict[str, Tensor]:
    """The ids as torch.save writes them at once: text (bytes,) uint8, and the (N,) int32 bytes of each."""
    text, lengths = ids.as_bytes()
    with warnings.catch_warnings():  # they lie where nothing may be written, and nothing is
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return {"text": torch.from_numpy(text), "lengths": torch.from_numpy(lengths)}


class LabelBank:
    """(N, H) pseudo-labels, addressed by the clips' rows, and what goes with them.

    Where each modality has labels of its own, H counts the heads of the first modality, then those of the next;
    column h is what that head learns (selavi/config/label_sets.py).

    Attributes:
        ids: (N,) of the clips.
        labels: (N, H) int32; -1 for none.  The processes of a machine hold them together: a labelling puts others in
            their place, and nobody writes into them.
        rule: that of the last labelling, for the scores of these heads.
        weights: (H, K) float32, what a clip of each cluster counts in the loss.
        probe: (H,) float64, of the last labelling of a finished model (selavi/labelling/probe.py); nan before it, and
            where each modality has labels of its own.
        num_labellings: so far.
        given: (N, H) int32, labels of a table that no labelling changes, -1 for none, and not written into either; None
            where there are none such.
        keeps_first: whether its labels are the first ones that were given, and are kept until they are learned.
    """

    def __init__(self, ids: Sequence[str], num_heads: int, num_clusters: int) -> None:
        self.ids = ClipIds(ids)
        self.labels = torch.tensor(-1, dtype=torch.int32).expand(len(ids), num_heads)  # takes no memory
        self.rule = LabelRule.plain(num_heads, num_clusters)
        self.weights = torch.ones(num_heads, num_clusters)
        self.probe = torch.full((num_heads,), torch.nan, dtype=torch.float64)
        self.num_labellings = 0
        self.keeps_first = False
        self.given: Tensor | None = None

    def __getitem__(self, index: Tensor) -> Tensor:
        """Pseudo-labels (B, H) int64 of some rows (B,), on their device.

        Raises:
            RuntimeError: nothing was labelled yet.
        """
        if self.num_labellings == 0:
            raise RuntimeError("the label bank was read before the first labelling")
        return self.labels[index.cpu()].long().to(index.device)

    def read(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pseudo-labels and weights, (B, H) each, of some rows (B,) on the host, which does not wait for the device."""
        return send(self[index], device), send(self.clip_weights(index), device)

    def clip_weights(self, index: Tensor) -> Tensor:
        """What some rows (B,) count in the loss of each head, (B, H) float32, on their device."""
        labels = self[index.cpu()].clamp(min=0)
        return self.weights.T.gather(0, labels).to(index.device)

    def forget_guesses(self) -> None:
        """Go back to the labels that were given, where there are such: a last labelling guesses for the other clips."""
        if self.given is not None:
            self.labels = self.given

    def state_dict(self) -> dict[str, Any]:
        """Everything, fit for torch.load(weights_only=True)."""
        return {
            "ids": _as_tensors(self.ids),
            "labels": self.labels,
            "weights": self.weights,
            "probe": self.probe,
            "num_labellings": self.num_labellings,
            "keeps_first": self.keeps_first,
            **({} if self.given is None else {"given": self.given}),
            **self.rule.tensors(),
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a saved bank that cannot be taken up; its tensors may still lie in a file.

        Raises:
            UsageError: it belongs to other clips or another number of heads or clusters.
        """
        if not _are_saved(self.ids, state["ids"]):
            ids = ids_of_bank(state)
            kept = len(set(ids) & set(self.ids))
            changes = describe_changes(ids, self.ids) or "they come in another order"
            raise UsageError(
                f"the checkpoint labels {len(ids)} clips, the data now has {len(self.ids)}, {kept} of them "
                f"the same: {changes}; bring back the media the run began with (data.root=NEW where they have moved), "
                "or start a new run with another run_dir"
            )
        shapes = {"labels": self.labels.shape, "potentials": self.rule.potentials.shape, "weights": self.weights.shape}
        for name, shape in shapes.items():
            saved, expected = tuple(state[name].shape), tuple(shape)
            if saved != expected:
                raise UsageError(
                    f"the checkpoint's {name} have shape {saved}, this configuration needs {expected}; "
                    "use the configuration of the run, or another run_dir"
                )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved bank, whose ids, labels and given labels may still lie in a file; every process must come.

        Raises:
            UsageError: see check; or a process cannot read them.  All processes raise it, where one does.
        """
        with fail_together():
            self.check(state)
        shared = read_shared({name: state[name] for name in ("labels", "given") if name in state})
        self.labels, self.weights = shared["labels"].values, state["weights"].clone()
        self.given = shared["given"].values if "given" in shared else None
        self.rule = LabelRule.from_tensors(state)
        self.probe = state.get("probe", self.probe).clone()  # earlier versions did not measure it
        self.num_labellings = state["num_labellings"]
        self.keeps_first = state.get("keeps_first", False)  # earlier versions gave them up at once
