"""Do the maps help to group pictures: segments against K-means over plain mean features?

    python benchmarks/segments.py runs/demo runs/demo-seed1 runs/demo-seed2      two minutes

Features of the last map of the picture's encoder at every moment of the demo set's test split that has a box, under the
head that is chosen without labels: their mean inside the map, as `selavi localise --segments` takes it, and their mean
over the whole picture.  Both are standardised and grouped by K-means into as many segments as there are classes, with
the run's seed, and compared with the classes of the clips.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import describe_machine, environment, markdown_table, publish
from sounding import SPLIT, chosen_head, clusters_of

from datamodules.index.manifest import select_split
from selavi.commands.evidence import evidence_for
from selavi.commands.localise import LocaliseArguments
from selavi.commands.localise_moments import look_at_moments
from selavi.commands.opening import open_run
from selavi.localisation.evidence import PICTURED
from selavi.localisation.files import read_evidence
from selavi.results.boxes import box_rows, segments_of
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

INSIDE, EVIDENCE, WHOLE = "inside the map", "inside the map of evidence", "whole picture"
CLUSTERS = "the run's own clusters"


def measure(path: Path) -> dict[str, Any]:
    """The row of a run: NMI with the classes, by what is grouped."""
    run = open_run(path)
    head = chosen_head(run)
    manifest = select_split(run.manifest, SPLIT)
    ids = manifest["id"].to_pylist()
    classes = {clip_id: Path(name).parts[-2] for clip_id, name in zip(ids, manifest["path"].to_pylist(), strict=True)}
    blank = {"width": 1, "height": 1, "name": None, "confidence": 1.0}
    clips = {
        clip_id: {**blank, "cluster": cluster}
        for clip_id, cluster in zip(ids, clusters_of(run, head, ids).tolist(), strict=True)
    }
    labelled = {clip_id: clip["cluster"] for clip_id, clip in clips.items()}
    shown = read_evidence(evidence_for(path, SPLIT, head, ids, maps=LocaliseArguments.maps))
    moments = list(box_rows(shown, clips, PICTURED, []))
    facts, by_evidence = (
        look_at_moments(run, SPLIT, head, moments, labelled, maps=maps, with_features=True)
        for maps in (LocaliseArguments.maps, "evidence")
    )
    truth = np.array([classes[moment["id"]] for moment in moments])
    num_segments = len(set(classes.values()))
    groups = {
        INSIDE: segments_of(facts.inside, num_segments, run.config.seed),
        EVIDENCE: segments_of(by_evidence.inside, num_segments, run.config.seed),
        WHOLE: segments_of(facts.whole, num_segments, run.config.seed),
        CLUSTERS: np.array([moment["cluster"] for moment in moments]),
    }
    figures = {name: normalised_mutual_information(contingency_matrix(truth, group)) for name, group in groups.items()}
    about = {"row": path.name, "head": head, "pictures": len(moments), "segments": num_segments}
    return {**about, "nmi": figures, "environment": environment(path)}


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/segments.md."""
    names = {
        INSIDE: "segments: features inside the map of contrast",
        EVIDENCE: "the same of evidence (`--maps evidence`)",
        WHOLE: "features of the whole picture",
        CLUSTERS: CLUSTERS,
    }
    table = []
    for name, words in names.items():
        each = [row["nmi"][name] for row in rows]
        table.append([words, f"{np.mean(each):.3f}", ", ".join(f"{value:.3f}" for value in each)])
    inside, whole = (np.mean([row["nmi"][name] for row in rows]) for name in (INSIDE, WHOLE))
    wins = sum(row["nmi"][INSIDE] > row["nmi"][WHOLE] for row in rows)
    said = "better" if wins == len(rows) else "worse" if wins == 0 else "not reliably better or worse"
    about, _, how = (__doc__ or "").strip().split("\n\n")
    return f"""# Segments

{about}

{how}

{rows[0]["segments"]} segments, {", ".join(f"{row['pictures']:,}" for row in rows)} pictures in {len(rows)} runs
(seeds); NMI with the classes.

{markdown_table(["what is grouped", "NMI", "each run"], table)}

With the map the segments are **{said}** than without it: better in {wins} of {len(rows)} runs, {inside:.3f} against
{whole:.3f} on average. Balls, pendulums and fans belong to two classes each, which differ in their sound alone and
which no picture tells apart; the clusters of the run hear them.

{describe_machine(rows)} By `python benchmarks/segments.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(path) for path in args.runs]
    publish("segments", "Segments", rows, page(rows))


if __name__ == "__main__":
    main()
