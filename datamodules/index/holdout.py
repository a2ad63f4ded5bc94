"""A part of the training clips held out: to choose settings on, so that the test clips need not serve for it."""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import select_split, usable
from selavi.errors import UsageError
from selavi.randomness import mix
from selavi.runs.manifest import media_root

GROUPS = {
    "ucf101": r"v_[^/]+_g[0-9]+",  # v_Archery_g08_c01: the clips of a group are cut from one recording
    "hmdb51": r"[^/]+(?=_[a-z]+_[a-z]+_np[0-9]+_[a-z]+_[a-z]+_[0-9]+)",  # before the attributes: the source
}
"""What the clips of one recording have in common in their names."""


def hold_out(
    ids: Sequence[str],
    labels: Sequence[str],
    *,
    fraction: float,
    seed: int,
    group: str = "",
    recordings: Sequence[str] | None = None,
) -> np.ndarray:
    """Choose whole groups of clips of each label until at least `fraction` of its clips are held out.

    Which groups they are depends on (seed, group) alone, not on the order of the clips.  Of every label at least one
    group is held out and at least one is left; a label with a single group is left whole.

    Args:
        ids: (N,) ids of the clips.
        labels: (N,) their labels.
        fraction: share of the clips of each label to hold out, above 0 and below 1.
        seed: of the choice.
        group: a key of GROUPS or a regular expression; clips in whose ids it matches the same text are one group.
            "": each clip is one, or the pieces of one recording are.
        recordings: (N,) what the clips are cut from; None: each is whole.

    Returns:
        (N,) bool, True for the clips held out.

    Raises:
        UsageError: the expression is none, or fits no id.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"expected a share between 0 and 1 of the clips to hold out, got {fraction}")
    try:
        pattern = re.compile(GROUPS.get(group, group))
    except re.error as error:
        raise UsageError(f"{group!r} is neither {' nor '.join(GROUPS)} nor a regular expression: {error}") from error
    matches = [pattern.search(clip_id) if group else None for clip_id in ids]
    if group and not any(matches):
        raise UsageError(f"the group {group!r} fits none of the {len(ids)} ids, such as {ids[0] if ids else 'none'}")
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (name, label, match) in enumerate(zip(recordings or ids, labels, matches, strict=True)):
        members[label][match.group() if match else name].append(row)
    held = np.zeros(len(ids), dtype=bool)
    for groups in members.values():
        order = sorted(groups, key=lambda name: (mix(seed, "hold out", name), name))
        enough, taken = fraction * sum(map(len, groups.values())), 0
        for name in order[: len(order) - 1]:
            if taken >= enough:
                break
            held[groups[name]] = True
            taken += len(groups[name])
    return held


def recordings_of(rows: pa.Table) -> list[str]:
    """(N,) the id of each clip or, of a piece, the path of its recording."""
    names: list[str] = pc.if_else(pc.is_valid(rows["end_s"]), rows["path"], rows["id"]).to_pylist()
    return names


def split_off(manifest: pa.Table, split: str, name: str, *, fraction: float, seed: int, group: str) -> pa.Table:
    """Move a part of a split's usable clips to a split of its own; clips without a label leave the manifest.

    Args:
        manifest: judged.
        split: to take clips from.
        name: of the new split.
        fraction: see hold_out, and the other arguments too.
        seed: as hold_out takes it.
        group: as hold_out takes it.

    Raises:
        UsageError: there are no labels, no class has two groups of clips, or as hold_out.
    """
    labelled = manifest.filter(pc.is_valid(manifest["label"]))
    rows = usable(select_split(labelled, split)) if len(labelled) else labelled
    if not len(rows):
        raise UsageError(
            f"no usable clip of split {split!r} of {media_root(manifest)} has a label; labels are the folders' names "
            "or those of data.list"
        )
    ids = rows["id"].to_pylist()
    recordings = recordings_of(rows)
    held = hold_out(
        ids, rows["label"].to_pylist(), fraction=fraction, seed=seed, group=group, recordings=recordings
    )  # fmt: skip
    if not held.any():
        raise UsageError(f"no class of split {split!r} has two clips (or groups of clips), so none can be held out")
    moved = pc.is_in(labelled["id"], pa.array(np.array(ids, dtype=object)[held], pa.string()))
    column = labelled.schema.get_field_index("split")
    return labelled.set_column(column, "split", pc.if_else(moved, name, labelled["split"]))
