"""docs/results/gpu.md from the figures of gpu.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from common import markdown_table

PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H200": 989.4}
"""Dense bfloat16, from NVIDIA's datasheets of the SXM cards."""
NOT_YET = "not measured"
BEFORE = ", 3-D convolutions"
"""Sections whose figures are of the encoder before its 3-D convolutions were computed as 2-D ones (flat.md)."""
WHOLE_SIZES = {"AV-objects": (576, 40), "AV-digits": (2000, 45)}
"""Training clips and epochs of the whole trainings."""
Cases = Mapping[str, Mapping[str, Any]]


def page(
    results: Mapping[str, Cases], planned: Sequence[tuple[int, int]], planned_compiled: Sequence[tuple[int, int]]
) -> str:
    """The whole page.

    Args:
        results: section -> case -> its figures, and where they were made.
        planned: frames and clips of the cases of `step`.
        planned_compiled: those of `compiled`.
    """
    step, ways, pieces = (_latest(results, section) for section in ("step", "ways", "parts"))
    parts = [
        "# What a GPU makes of a run",
        "R(2+1)D-18 on 112 x 112 pixels and ResNet-9 on sound, at the published widths, in bfloat16 unless a row says "
        "otherwise. Batches are noise that lies in pinned memory, so nothing here waits for a disk or a decoder.",
        _made(results),
        _of_which_encoder(results),
        "## A step of training",
        "Clips a second of a plain PyTorch loop over one augmented batch that stays on the GPU, and of a run's own "
        "loop: Lightning, with the copy of each batch, the augmentation, and all that looks at a step. *Share of "
        "peak*: the counted operations of forward and backward over what the datasheet promises of dense bfloat16. "
        "*Counted*: the same share of peak as in the case of so many frames that was measured.",
        _step(step, planned, step),
        "## Encoders compiled",
        "The same with encoders that torch's compiler has made, as `trainer.compile` does by default in long "
        "trainings on a GPU.",
        _step(results.get("compiled", {}), planned_compiled, step),
        "## What may make it faster",
        "The plain loop at 30 frames and 32 clips. Labelling is the encoders without gradient.",
        _ways(ways),
        "## Where the time of a step goes",
        "Milliseconds at 30 frames and 32 clips, each part timed alone.",
        _parts(pieces),
        "## Whole trainings at the full size",
        _whole(results.get("whole", {}), step),
        "Solver on a GPU: [transport.md](transport.md). Small encoders on the GPU: the rows of "
        "[labels.md](labels.md) that say so.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _latest(results: Mapping[str, Cases], section: str) -> Cases:
    """The cases of a section; of the encoder before, where those of today's are not measured."""
    return results.get(section) or results.get(f"{section}{BEFORE}", {})


def _of_which_encoder(results: Mapping[str, Cases]) -> str:
    titles = {"step": "a step of training", "ways": "what may make it faster", "parts": "where the time of a step goes"}
    earlier = [title for section, title in titles.items() if not results.get(section)]
    if not earlier:
        return ""
    return (
        f"**These figures are of 3-D convolutions: {', '.join(earlier)}.** Since then the encoder computes the same as "
        "2-D ones, which takes less time on a processor ([flat.md](flat.md)); on a GPU that is not measured for these."
    )


def _made(results: Mapping[str, Cases]) -> str:
    made = {
        f"{case['made']['device']} with {case['made']['cores']} cores, torch {case['made']['torch']}, "
        f"{case['made']['date']}, {case['made']['timed']}"
        for cases in results.values()
        for case in cases.values()
    }
    return f"By `python benchmarks/gpu.py`, on {'; '.join(sorted(made)) or 'no GPU so far'}."


def _step(cases: Cases, planned: Sequence[tuple[int, int]], plain: Cases) -> str:
    """Rates of the planned cases; operations are those that `plain` counted."""
    header = ["frames", "clips a step", "plain loop", "share of peak", "a run", "run / plain", "GiB"]
    rows = []
    for frames, clips in planned:
        name = f"{frames} frames, {clips} clips"
        case = cases.get(name)
        if case is None:
            alike = next((case for name, case in cases.items() if name.startswith(f"{frames} frames")), None)
            counted = [f"{NOT_YET} (counted: {alike[way]:.0f})" if alike else NOT_YET for way in ("bare", "selavi")]
            rows.append([str(frames), str(clips), counted[0], "", counted[1], "", ""])
            continue
        peak = PEAK_TFLOPS.get(case["made"]["device"])
        flops = plain.get(name, {}).get("flops_a_clip")
        share = f"{case['bare'] * flops / peak / 1e12:.1%}" if peak and flops else "unknown"
        ratio = f"{case['selavi'] / case['bare']:.3f}"
        rates = [f"{case['bare']:.0f}", share, f"{case['selavi']:.0f}", ratio, f"{case['bare_gib']:.1f}"]
        rows.append([str(frames), str(clips), *rates])
    return markdown_table(header, rows)


def _ways(cases: Cases) -> str:
    if not cases:
        return f"{NOT_YET.capitalize()}."
    header = ["way", "training, clips/s", "labelling, clips/s", "GiB", "first step, s"]
    rows = []
    for name, case in cases.items():
        if "failed" in case:
            rows.append([name, f"failed: {case['failed']}", "", "", ""])
            continue
        rates = [f"{case['training']:.0f}", f"{case['labelling']:.0f}"]
        rows.append([name, *rates, f"{case['gib']:.1f}", f"{case['first_s']:.1f}"])
    return markdown_table(header, rows)


def _parts(cases: Cases) -> str:
    if not cases:
        return f"{NOT_YET.capitalize()}."
    return markdown_table(["part", "ms"], [[name, f"{case['ms']:.1f}"] for name, case in cases.items()])


def _whole(cases: Cases, step: Cases) -> str:
    if not cases:
        rate = next((case["selavi"] for name, case in step.items() if name.startswith("16 frames")), None)
        if rate is None:
            return f"{NOT_YET.capitalize()}."
        counted = [
            f"{name} {clips:,} clips, {epochs} epochs: {clips * epochs / rate / 60:.1f} minutes"
            for name, (clips, epochs) in WHOLE_SIZES.items()
        ]
        return (
            f"{NOT_YET.capitalize()}. Counted from a run's steps of 16 frames above, without decoding and labelling: "
            f"{'; '.join(counted)}."
        )
    rows = [
        [name, *(f"{case['splits'][split]['chosen']['nmi']:.3f}" for split in ("train", "test")), _minutes(case)]
        for name, case in cases.items()
    ]
    return markdown_table(["set and seed", "train NMI", "test NMI", "minutes"], rows)


def _minutes(case: Mapping[str, Any]) -> str:
    """Of training, start and decoding included."""
    return f"{case['train_seconds'] / 60:.1f}"
