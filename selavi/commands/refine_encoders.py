"""Encoders that learn what was named: those of a run, trained on with the places of its clips as labels.

The training is a run like any other, in a folder of its own, and goes on where it was stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from selavi.commands.opening import open_run
from selavi.commands.train import TrainArguments, train
from selavi.distributed import meet, part
from selavi.refining.places import Places
from selavi.refining.refine import Refined
from selavi.refining.tables import write_lessons
from selavi.runs.folder import RunFolder
from selavi.runs.launch import trains_on_all
from selavi.runs.record import Run

WARMUP_SHARE = 0.1
"""Most of the epochs over which the rate rises: that of the run is meant for many more."""


def encoders_folder(out: Path) -> Path:
    """The run of a round's encoders: beside the round's own."""
    return out.with_name(f"{out.name}-encoders")


def train_encoders(
    run: Run, refined: Refined | None, places: Places, ids: Sequence[str], folder: Path, epochs: int
) -> Run:
    """Train a copy of the run's encoders on the places of its clips, or finish what was begun in the folder.

    Clips that are unsure teach as well: without them, few may be left.

    Args:
        run: whose encoders, and settings, they begin with.
        refined: what heads on them made of the names; None on all processes but the first.
        places: P of them, the clusters of the new run.
        ids: of the N clips.
        folder: of the new run.
        epochs: passes over the clips.

    Raises:
        UsageError: the folder has encoders that learned other names, or for another number of epochs.

    Returns:
        The new run, its media where those of `run` are.
    """
    files = RunFolder(folder)
    if refined is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_lessons(files.lessons, places, refined, ids)
    meet()
    settings = [f"run_dir={folder}", "resume=auto", f"data.root={run.config.data.root}", f"encoders.init={run.folder}"]
    settings += ["labelling.method=given", f"labelling.table={files.lessons}", "labelling.source=joint"]
    settings += [f"heads.num_clusters={len(places.names)}", f"trainer.max_epochs={epochs}", "trainer.more_epochs=[]"]
    warmup = min(run.config.optim.warmup_epochs, WARMUP_SHARE * epochs)
    settings += [f"optim.warmup_epochs={warmup}", *trains_on_all()]
    train(TrainArguments(RunFolder(run.folder).settings, settings))
    part()
    return open_run(folder, run.config.data.root)
