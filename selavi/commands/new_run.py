"""A run that is made of a finished one: its encoders with new heads, in a folder of its own."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selavi.config import Config
    from selavi.inference.bad_clips import BadClips
    from selavi.refining.refine import Refined
    from selavi.runs.folder import RunFolder
    from selavi.runs.record import Run
    from selavi.training.refit import Refit


def write_new_run(
    source: "Run",
    config: "Config",
    fitted: "Refit | Refined",
    bad: "BadClips",
    began: float,
    sentences: Sequence[str],
    *,
    has_moved: bool,
    write_more: "Callable[[RunFolder], None]" = lambda files: None,
) -> str:
    """Write the folder of config.run_dir; the source stays as it is.

    Args:
        source: whose encoders, settings file and manifest they are.
        config: of the new run.
        fitted: the encoders with the new heads, and the labels.
        bad: the clips that could not be decoded.
        began: time.monotonic() when the work began.
        sentences: what is known of the labels; that of the bad clips is added.
        has_moved: the media are elsewhere than the manifest says, and their times are read again.
        write_more: called with the folder before the run counts as finished.

    Returns:
        The verdict.
    """
    from datamodules.index.moved import with_own_times
    from selavi.results.labels import write_labels
    from selavi.runs.checkpoint import write_checkpoint
    from selavi.runs.folder import RunFolder
    from selavi.runs.lifetime import finish_run, owned, start_run
    from selavi.scores.verdict import Verdict
    from selavi.training.refit import new_checkpoint

    bank = fitted.bank
    files, given = RunFolder(config.run_dir), RunFolder(source.folder).given_settings
    with owned(config.run_dir):
        manifest = with_own_times(source.manifest) if has_moved else source.manifest
        start_run(config, given if given.exists() else None, manifest)
        split = config.data.train_split
        write_labels(files.path, split, bank.ids, bank.labels, vars(fitted.statistics), bank.probe)
        bad.write(files.bad_clips)
        write_more(files)
        write_checkpoint(new_checkpoint(source, config, fitted.model, bank), files.last_checkpoint)
        what_failed = [f"{bad.sentence}: {files.bad_clips}."] if bad.sentence else []
        verdict = Verdict("unknown", (*sentences, *what_failed))
        finish_run(config, time.monotonic() - began, verdict)
    return verdict.text
