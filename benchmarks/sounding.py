"""Does the column `sounding` tell a clip's own sound from silence, noise and another clip's sound?

    python benchmarks/sounding.py runs/demo runs/demo-seed1 runs/demo-seed2      half a minute

The middle window of each clip of the demo set's test split, under the head that is chosen without labels.  Each clip is
asked twice, with its own sound and with another one in its place: silence, white noise as loud as the clip's own sound
(by its root mean square), or the sound of a clip whose class sounds different.  The own should have the larger value.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import describe_machine, environment, markdown_table, mean_and_range, publish

from datamodules.loading.views import ClipLoaders
from selavi.batch import ClipBatch
from selavi.commands.opening import open_run
from selavi.inference.load import load_model
from selavi.localisation.moments import sounding
from selavi.randomness import mix
from selavi.results.labels import read_labels
from selavi.runs.record import Run
from selavi.scores.boxes import average_precision, largest_f1
from selavi.scores.head_choice import choose_head

SPLIT, HEARD, OWN = "test", "audio", "own"
OTHERS = ("silence", "noise", "another clip's sound")
SCORE, LOG_PROBABILITY = "score (the column)", "log-probability"


def chosen_head(run: Run) -> int:
    """The head that is chosen without labels."""
    training = read_labels(run.folder, run.config.data.train_split)
    return choose_head(training.clusters, probe=training.probe).head


def clusters_of(run: Run, head: int, ids: Sequence[str]) -> torch.Tensor:
    """(N,) clusters of the clips of the split under a head."""
    clusters = read_labels(run.folder, SPLIT).cluster_of(head)
    return torch.tensor([clusters[clip_id] for clip_id in ids])


def noise_like(waveforms: torch.Tensor, ids: Sequence[str]) -> torch.Tensor:
    """(N, S) int16 white noise with the root mean square of each of (N, S)."""
    rows = []
    for waveform, clip_id in zip(waveforms.numpy(), ids, strict=True):
        loudness = np.sqrt(np.square(waveform.astype(np.float64)).mean())
        rows.append(loudness * np.random.default_rng(mix(0, "noise", clip_id)).standard_normal(len(waveform)))
    return torch.from_numpy(np.clip(np.rint(rows), -32768, 32767).astype(np.int16))


def another(sounds: Sequence[str]) -> torch.Tensor:
    """(N,) for each clip the next one, from half the way on, that sounds different."""
    count = len(sounds)
    return torch.tensor(
        [
            next(other for step in range(count) if sounds[other := (row + count // 2 + step) % count] != sound)
            for row, sound in enumerate(sounds)
        ]
    )


def measure(path: Path) -> list[dict[str, Any]]:
    """A row for each measure and each other sound."""
    run = open_run(path)
    head = chosen_head(run)
    loader, rows = ClipLoaders(run.config, run.manifest).evaluation_loader(SPLIT)
    ids = rows["id"].to_pylist()
    batches = list(loader)
    clusters = clusters_of(run, head, ids)
    order = torch.cat([batch.index for batch in batches])
    assert order.tolist() == list(range(len(ids)))
    own = torch.cat([batch.inputs[HEARD] for batch in batches])
    sounds = {OWN: own, OTHERS[0]: torch.zeros_like(own), OTHERS[1]: noise_like(own, ids)}
    sounds[OTHERS[2]] = own[another([Path(name).parts[-2].split("_")[1] for name in rows["path"].to_pylist()])]
    model, augment = load_model(run)
    column = run.config.head_of_column(head)[1]

    def log_probability(batch: ClipBatch) -> torch.Tensor:
        features = model.encoders[HEARD](augment.plain(batch.inputs)[HEARD])
        values = model.heads[HEARD](features, [column])[0].log_softmax(1)
        return values.gather(1, clusters[batch.index][:, None])[:, 0]

    values: dict[tuple[str, str], np.ndarray] = {}
    with torch.no_grad():
        for name, waveforms in sounds.items():
            heard = [dataclasses.replace(one, inputs={**one.inputs, HEARD: waveforms[one.index]}) for one in batches]
            scores = [sounding(model, augment, one, clusters[one.index], head, run.config) for one in heard]
            values[SCORE, name] = torch.cat(scores).numpy()
            values[LOG_PROBABILITY, name] = torch.cat([log_probability(one) for one in heard]).numpy()
    of_silence = values[LOG_PROBABILITY, OTHERS[0]]
    values |= {(LOG_PROBABILITY, name): values[LOG_PROBABILITY, name] - of_silence for name in sounds}
    result = []
    for measure_name in (SCORE, LOG_PROBABILITY):
        for other in OTHERS:
            both = np.concatenate([values[measure_name, OWN], values[measure_name, other]])
            is_own = np.arange(len(both)) < len(ids)
            figures = {
                "average_precision": average_precision(both, is_own),
                "largest_f1": largest_f1(both, is_own),
                "own_above_zero": float((values[measure_name, OWN] > 0).mean()),
                "own_median": float(np.median(values[measure_name, OWN])),
                "other_median": float(np.median(values[measure_name, other])),
            }
            about = {"row": path.name, "measure": measure_name, "other": other, "head": head, "clips": len(ids)}
            result.append({**about, **figures, "environment": environment(path)})
    return result


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/sounding.md."""
    table = []
    for measure_name in (SCORE, LOG_PROBABILITY):
        for other in OTHERS:
            shown = [row for row in rows if row["measure"] == measure_name and row["other"] == other]
            cells = [mean_and_range([row[key] for row in shown]) for key in ("average_precision", "largest_f1")]
            medians = [mean_and_range([row[key] for row in shown]) for key in ("own_median", "other_median")]
            table.append([f"{measure_name}: {other}", *cells, *medians])
    table.append(["prior: every sound is the own", "0.50", "0.67", "-", "-"])
    header = ["own sound against", "AP", "max-F1", "median of the own", "median of the other"]
    above = mean_and_range(
        [row["own_above_zero"] for row in rows if row["measure"] == SCORE and row["other"] == OTHERS[0]]
    )
    first, _, second = (__doc__ or "").strip().split("\n\n")
    return f"""# The own sound, or another one

{first}

{second}

{rows[0]["clips"]} clips, {len({row["row"] for row in rows})} runs (seeds), whose clusters are nearly the set's classes;
mean over the runs, and their range. A clip's own sound counts as true, so half of what is ranked is: the prior of AP is
0.50, and that of max-F1, which calls every sound the own, 2/3. *Score* is the column `sounding`
([evidence.md](../evidence.md#boxes)); *log-probability* is by how much the sound raises the logarithm of the sound
head's probability of the cluster instead.

{markdown_table(header, table)}

`sounding` is above 0, which is what silence has, for {above} of the clips' own sounds. The column is the score, which
has the unit of `peak`; the logarithm of the probability, which was measured beside it, tells noise apart worse.

{describe_machine(rows)} By `python benchmarks/sounding.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for path in args.runs for row in measure(path)]
    publish("sounding", "The own sound, or another one", rows, page(rows))


if __name__ == "__main__":
    main()
