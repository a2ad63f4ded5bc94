"""Speed of the label optimisation: time to labels, share of the memory bandwidth, passes, growth, memory.

python benchmarks/transport.py                    every section, one after the other, each in a process of its own
python benchmarks/transport.py --section labels   one of them; its figures replace the earlier ones in the results
python benchmarks/transport.py --device cuda      the same on a GPU (without the comparisons that run on CPUs)
python benchmarks/transport.py --section real --run RUN [RUN ...]   on score tables of trained runs
python benchmarks/transport.py --plot             write docs/results/transport.md and the picture again

Rounds are interleaved in one process and medians reported; compilation is left out.  POT is optional: `pip install
POT`.  Yardsticks: `scaling` is Sinkhorn's algorithm as two float64 matrix-vector products an iteration, either
stopped as the original does (every tenth iteration, the summed relative change of the row scalings at most 0.1) or
at the same column error as ours.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import common
import numpy as np
import torch
from common import markdown_table
from torch import Tensor

from selavi.labelling.alignment import align, alignment_cost
from selavi.labelling.solver.tables import BlockTable, make_table
from selavi.labelling.solver.transport import assign

ROOT = Path(__file__).resolve().parents[1]
NUM_CLIPS, NUM_CLUSTERS, SHARPNESS, TOL = 170_752, 309, 20.0, 1e-6
SPREADS = (0.3, 1.0, 3.0)


def log_table(num_clips: int, num_clusters: int, spread: float, device: str = "cpu", seed: int = 0) -> Tensor:
    """Log-probabilities of clips that belong to classes of skewed sizes; `spread` is the sd of the logits."""
    generator = torch.Generator(device).manual_seed(seed)
    sizes = torch.arange(1, num_clusters + 1, device=device).float() ** -0.7
    classes = torch.multinomial(sizes, num_clips, replacement=True, generator=generator)
    logits = torch.randn(num_clips, num_clusters, device=device, generator=generator).mul_(spread)
    logits[torch.arange(num_clips, device=device), classes] += 2 * spread
    logits -= logits.logsumexp(1, keepdim=True)
    return logits


def gaussian_marginal(num_clusters: int, device: str = "cpu") -> Tensor:
    """Sizes that vary by a tenth."""
    sizes = 1 + 0.1 * torch.randn(num_clusters, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (sizes / sizes.sum()).to(device)


def scaling(
    plan: Tensor, marginal: Tensor, rule: str, most: int = 3000, until_s: float = math.inf
) -> tuple[Tensor, int, float]:
    """Sinkhorn's algorithm on ``exp(sharpness * scores)`` in float64; labels, iterations, column L1 error.

    It ends by its rule, after `most` iterations, or when the process has worked for `until_s` in all.
    """
    num_clips = len(plan)
    beta = torch.full((num_clips,), 1 / num_clips, dtype=torch.float64, device=plan.device)
    alpha = torch.ones_like(marginal)
    for iteration in range(1, most + 1):
        columns = beta @ plan
        if rule == "error" and (alpha * columns - marginal).abs().sum().item() <= TOL:
            break
        alpha = marginal / columns
        following = 1 / num_clips / (plan @ alpha)
        if rule == "original" and iteration % 10 == 0 and (beta / following - 1).abs().sum() <= 0.1:
            beta = following
            break
        beta = following
        if time.process_time() > until_s:
            break
    error = (alpha * (beta @ plan) - marginal).abs().sum().item()
    labels = torch.cat([(block * alpha).argmax(1) for block in plan.split(4096)])
    return labels, iteration, error


def sharpen(scores: Tensor) -> Tensor:
    """The table that scaling works on, in float64; rows are moved to a maximum of 1, which keeps them finite."""
    plan = scores.double().mul_(SHARPNESS)
    plan -= plan.amax(1, keepdim=True)
    return plan.exp_()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds and the result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def rounds(calls: dict[str, Callable[[], Any]], num_rounds: int) -> dict[str, float]:
    """Median seconds of each, interleaved.

    OpenMP's threads spin on after torch's operations: each call waits for them to stop, and is timed the second time.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            time.sleep(0.05)
            call()
            times[name].append(timed(call)[0])
    return {name: median(values) for name, values in times.items()}


def peak_rss() -> float:
    """GiB, the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compile_first(device: str) -> float:
    """Seconds of the first labelling of a process: loading or compiling the kernels."""
    small = log_table(9000, 64, 1.0, device)
    alignment_cost(small, small)
    seconds, _ = timed(lambda: assign(small, gaussian_marginal(64, device)))
    large = log_table(1000, 1100, 1.0, device)
    more, _ = timed(lambda: assign(large, gaussian_marginal(1100, device)))
    return seconds + more


def describe(found: Any) -> dict[str, Any]:
    """What a labelling did."""
    return {
        "passes": found.num_passes,
        "hessians": found.num_hessians,
        "error": found.marginal_error,
        "converged": found.converged,
    }


def bandwidth_calls(scores: Tensor) -> dict[str, Callable[[], Any]]:
    """Plain reads of the table: the fastest is the limit."""
    return {"read by sum": lambda: scores.sum(), "read by max": lambda: scores.max()}


def section_pass(device: str, num_rounds: int) -> dict[str, Any]:
    """A pass against a plain read of the same table, interleaved."""
    scores = log_table(NUM_CLIPS, NUM_CLUSTERS, 1.0, device)
    table, potentials = make_table(scores), gaussian_marginal(NUM_CLUSTERS, device).log()
    calls = {
        "pass": lambda: table.masses(potentials, SHARPNESS),
        "pass with Hessian": lambda: table.curvature(potentials, SHARPNESS),
        "labels": lambda: table.labels(potentials, SHARPNESS),
        "survey": lambda: table.survey(torch.zeros_like(potentials), SHARPNESS),
        "statistics": lambda: table.statistics(potentials, SHARPNESS),
    }
    seconds = rounds(calls, max(num_rounds, 11))
    # The limit: plain reads one after the other, where torch's threads need not be woken.
    reads = {name: [timed(call)[0] for _ in range(21)] for name, call in bandwidth_calls(scores).items()}
    seconds |= {name: median(values) for name, values in reads.items()}
    limit = min(map(median, reads.values()))
    size = scores.numel() * scores.element_size()
    return {
        "bandwidth_gb_s": size / limit / 1e9,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "share_of_bandwidth": {name: limit / value for name, value in seconds.items()},
    }


def section_labels(device: str, num_rounds: int, spread: float) -> dict[str, Any]:
    """Time to labels at VGG-Sound's size, cold and warm, against scaling and POT."""
    scores, marginal = log_table(NUM_CLIPS, NUM_CLUSTERS, spread, device), gaussian_marginal(NUM_CLUSTERS, device)
    moved = scores + 0.1 * spread * torch.randn_like(scores)
    return compare(scores, moved, marginal, device, num_rounds)


def compare(scores: Tensor, moved: Tensor, marginal: Tensor, device: str, num_rounds: int) -> dict[str, Any]:
    """Ours, cold and warm from a table a little different, against scaling in float64 and POT."""
    earlier = assign(moved, marginal).potentials
    cold, warm = assign(scores, marginal), assign(scores, marginal, initial_potentials=earlier)
    ours = {
        "ours, cold": lambda: assign(scores, marginal),
        "ours, warm": lambda: assign(scores, marginal, initial_potentials=earlier),
    }
    result: dict[str, Any] = {"cold": describe(cold), "warm": describe(warm)}
    result["ours_flops"] = _flops(scores, cold)
    plan = sharpen(scores)
    if device != "cpu":
        result["seconds"] = rounds(ours, num_rounds)
        slow, (labels, iterations, error) = timed(lambda: scaling(plan, marginal, "error"))
        result["equal_error"] = {"iterations": iterations, "error": error, "seconds": slow}
        result["same_labels_at_equal_error"] = (labels == cold.labels).double().mean().item()
        return result
    iterations = {}
    first, (labels, iterations["original rule"], error) = timed(lambda: scaling(plan, marginal, "original"))
    result["original_rule"] = {"iterations": iterations["original rule"], "error": error}
    result["same_labels_as_original_rule"] = (labels == cold.labels).double().mean().item()
    slow, (labels, iterations["equal error"], error) = timed(lambda: scaling(plan, marginal, "error"))
    result["equal_error"] = {"iterations": iterations["equal error"], "error": error, "seconds": slow}
    result["same_labels_at_equal_error"] = (labels == cold.labels).double().mean().item()
    # Whole runs of the yardstick in every round, as long as the rounds take a minute or so.
    affordable = max(1, min(num_rounds, int(60 / first)))
    calls = ours | {"scaling, original rule": lambda: scaling(plan, marginal, "original")}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(num_rounds):
        for name, call in calls.items():
            if index < affordable or name in ours:
                times[name].append(timed(call)[0])
    result["seconds"] = {name: median(values) for name, values in times.items()}
    result["rounds"] = {name: len(values) for name, values in times.items()}
    result["seconds"]["scaling, equal error"] = slow
    result["rounds"]["scaling, equal error"] = 1
    result["seconds"] |= _pot(scores, marginal, result["equal_error"]["iterations"])
    result["sharpening_s"] = timed(lambda: sharpen(scores))[0]
    ours_s = result["seconds"]["ours, cold"]
    result["times_faster_cold"] = {k: v / ours_s for k, v in result["seconds"].items() if not k.startswith("ours")}
    return result


def _flops(scores: Tensor, found: Any) -> float:
    """Rough count: 25 operations an entry and pass (20 of them the exponential), 5 more with a Hessian, its solves."""
    num_clusters = scores.shape[1]
    return (
        scores.numel() * (25.0 * found.num_passes + 5 * found.num_hessians) + found.num_hessians * num_clusters**3 / 3
    )


def _pot(scores: Tensor, marginal: Tensor, iterations: int) -> dict[str, float]:
    """POT's seconds: of a few iterations, and what as many more take as scaling needs."""
    try:
        import ot
    except ImportError:
        print("POT is not installed: left out", file=sys.stderr)
        return {}
    cost = -scores.double().numpy()
    rows = np.full(len(cost), 1 / len(cost))
    seconds = {}
    for name, few, many in (("sinkhorn", 10, 60), ("sinkhorn_log", 2, 6)):

        def run(most: int, name: str = name) -> float:
            with np.errstate(all="ignore"):
                return timed(
                    lambda: ot.sinkhorn(
                        rows, marginal.numpy(), cost, 1 / SHARPNESS, method=name, numItermax=most, stopThr=0, warn=False
                    )
                )[0]

        run(few)  # the first call finds its memory
        first = run(few)
        an_iteration = (run(many) - first) / (many - few)
        seconds[f"POT {name} (derived)"] = first + an_iteration * (iterations - few)
    return seconds


def section_small(device: str, num_rounds: int) -> dict[str, Any]:
    """Never slower: problems of a million entries."""
    result = {}
    for num_clips, num_clusters in ((3300, 309), (10_000, 100), (33_000, 30), (100_000, 10)):
        for spread in SPREADS:
            scores, marginal = (
                log_table(num_clips, num_clusters, spread, device),
                gaussian_marginal(num_clusters, device),
            )
            calls: dict[str, Callable[[], Any]] = {"ours": lambda s=scores, m=marginal: assign(s, m)}
            if device == "cpu":
                plan = sharpen(scores)
                calls["scaling, original rule"] = lambda p=plan, m=marginal: scaling(p, m, "original")
                calls["scaling, equal error"] = lambda p=plan, m=marginal: scaling(p, m, "error")
                calls["sharpening"] = lambda s=scores: sharpen(s)
            rounds(calls, 1)
            figures = rounds(calls, num_rounds) | describe(calls["ours"]())
            if device == "cpu":
                figures["original_error"] = calls["scaling, original rule"]()[2]
            result[f"{num_clips} x {num_clusters}, spread {spread}"] = figures
    return result


def section_passes(device: str, num_rounds: int) -> dict[str, Any]:
    """Passes to 1e-6, cold and warm, over sizes and spreads."""
    result = {}
    for num_clips, num_clusters in ((128_000, 309), (100_000, 1024), (50_000, 2048), (50_000, 4096)):
        for spread in (0.02, 0.1, 0.3, 1.0, 3.0):
            scores, marginal = (
                log_table(num_clips, num_clusters, spread, device),
                gaussian_marginal(num_clusters, device),
            )
            cold_s, cold = timed(lambda s=scores, m=marginal: assign(s, m))
            moved = scores.add_(0.05 * spread * torch.randn_like(scores))
            warm_s, warm = timed(lambda s=moved, m=marginal, c=cold: assign(s, m, initial_potentials=c.potentials))
            result[f"{num_clips} x {num_clusters}, spread {spread}"] = {
                "cold": describe(cold) | {"seconds": cold_s},
                "warm": describe(warm) | {"seconds": warm_s},
            }
    return result


def section_growth(device: str, num_rounds: int) -> dict[str, Any]:
    """Nanoseconds a clip (or an entry) and pass as N and K grow."""
    result: dict[str, Any] = {"by_num_clips": {}, "by_num_clusters": {}}
    sizes = (100_000, 300_000, 1_000_000)
    largest = log_table(max(sizes), NUM_CLUSTERS, 1.0, device)
    potentials = gaussian_marginal(NUM_CLUSTERS, device).log()
    tables = {str(size): make_table(largest[:size]) for size in sizes}
    calls = {name: lambda t=table: t.masses(potentials, SHARPNESS) for name, table in tables.items()}
    rounds(calls, 1)
    for name, seconds in rounds(calls, num_rounds).items():
        result["by_num_clips"][name] = {"ns_per_clip": seconds / int(name) * 1e9}
    del largest, tables, calls
    calls, kept = {}, []
    for num_clusters in (309, 1024, 4096):
        table = make_table(log_table(100_000, num_clusters, 1.0, device))
        potentials = gaussian_marginal(num_clusters, device).log()
        kept.append(table)
        calls[str(num_clusters)] = lambda t=table, p=potentials: t.masses(p, SHARPNESS)
    rounds(calls, 1)
    for name, seconds in rounds(calls, num_rounds).items():
        result["by_num_clusters"][name] = {"ns_per_entry": seconds / 1e5 / int(name) * 1e9}
    return result


def section_memory(device: str, num_rounds: int) -> dict[str, Any]:
    """Peak memory above the table."""
    compile_first(device)
    marginal = gaussian_marginal(NUM_CLUSTERS, device)
    if device != "cpu":
        scores = log_table(NUM_CLIPS, NUM_CLUSTERS, 1.0, device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        assign(scores, marginal)
        above = (torch.cuda.max_memory_allocated() - before) / 2**30
    else:
        # Written in place, so that making the table does not set the peak.
        scores = torch.empty(NUM_CLIPS, NUM_CLUSTERS)
        for block in scores.split(8192):
            block.copy_(log_table(len(block), NUM_CLUSTERS, 1.0))
        before = peak_rss()
        assign(scores, marginal)
        above = peak_rss() - before
    size = scores.numel() * 4 / 2**30
    return {"table_gib": size, "above_table_gib": above, "above_table_share": above / size}


def section_heads(device: str, num_rounds: int) -> dict[str, Any]:
    """Ten heads on features of VGG-Sound's size, through the Labeller: seconds, and memory above the features."""
    from selavi.config import Config
    from selavi.heads import make_heads
    from selavi.labelling.bank import LabelBank
    from selavi.labelling.features import FeatureTable
    from selavi.labelling.labeller import Labeller

    config = Config()
    compile_first(device)
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(NUM_CLUSTERS, 512, device=device, generator=generator)
    classes = torch.randint(NUM_CLUSTERS, (NUM_CLIPS,), device=device, generator=generator)
    features, heads = {}, {}
    torch.manual_seed(0)
    for name in config.kinds:
        features[name] = torch.empty(NUM_CLIPS, 512, device=device)
        for rows, chosen in zip(features[name].split(8192), classes.split(8192), strict=True):
            rows.normal_(generator=generator).add_(centres[chosen])
        heads[name] = make_heads("mlp", 10, 512, NUM_CLUSTERS, 0.0).to(device).eval()
    present = torch.ones(NUM_CLIPS, dtype=torch.bool, device=device)
    table = FeatureTable(torch.arange(NUM_CLIPS, device=device), features, dict.fromkeys(features, present))
    bank = LabelBank([str(n) for n in range(NUM_CLIPS)], 10, NUM_CLUSTERS)
    bank.num_labellings = 1  # the alignment, which is done once, is not part of this

    def logits(these: Any, only: list[int]) -> Any:
        return {name: heads[name](x, only) for name, x in these.items()}

    before = peak_rss() if device == "cpu" else torch.cuda.memory_allocated() / 2**30
    with torch.no_grad():
        seconds, (report, _) = timed(lambda: Labeller(config).relabel(bank, lambda _: table, logits, lambda *_: None))
        again, (second, _) = timed(lambda: Labeller(config).relabel(bank, lambda _: table, logits, lambda *_: None))
    peak = peak_rss() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    return {
        "seconds": seconds,
        "seconds_warm": again,
        "above_features_gib": peak - before,
        "features_gib": 2 * NUM_CLIPS * 512 * 4 / 2**30,
        "passes": report.num_passes,
        "passes_warm": second.num_passes,
        "converged": report.converged and second.converged,
    }


def section_streamed(device: str, num_rounds: int) -> dict[str, Any]:
    """Scores computed from features at every read, for a table that is never stored."""
    num_clips, num_features = 10_000_000, 64
    compile_first(device)
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(num_clips, num_features, device=device, dtype=torch.float32, generator=generator)
    weight = torch.randn(num_features, NUM_CLUSTERS, device=device, generator=generator) / num_features**0.5
    rows_per_block = 8192 if device == "cpu" else 262_144
    table = BlockTable(
        num_clips,
        NUM_CLUSTERS,
        lambda rows: (features[rows] @ weight).log_softmax(1),
        rows_per_block,
        torch.device(device),
    )
    before = peak_rss() if device == "cpu" else torch.cuda.memory_allocated() / 2**30
    seconds, found = timed(lambda: assign(table, gaussian_marginal(NUM_CLUSTERS, device)))
    peak = peak_rss() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    return describe(found) | {
        "num_clips": num_clips,
        "num_clusters": NUM_CLUSTERS,
        "num_features": num_features,
        "seconds": seconds,
        "above_features_gib": peak - before,
        "table_would_be_gib": num_clips * NUM_CLUSTERS * 4 / 2**30,
    }


def section_alignment(device: str, num_rounds: int) -> dict[str, Any]:
    """The alignment of two modalities: costs over the clips, then the assignment."""
    result = {}
    for num_clips, num_clusters in ((NUM_CLIPS, 309), (100_000, 1024), (16_384, 4096)):
        first = log_table(num_clips, num_clusters, 1.0, device).exp_()
        order = torch.randperm(num_clusters, generator=torch.Generator().manual_seed(0)).to(device)
        second = first[:, order] * (0.9 + 0.2 * torch.rand_like(first))
        cost_s, cost = timed(lambda f=first, s=second: alignment_cost(f, s))
        assign_s, found = timed(lambda c=cost: align(c))
        result[f"{num_clips:,} x {num_clusters}"] = {
            "cost_s": cost_s,
            "assign_s": assign_s,
            "found": (order[found] == torch.arange(num_clusters, device=device)).double().mean().item(),
        }
    return result


def section_real(device: str, num_rounds: int, runs: Sequence[Path]) -> dict[str, Any]:
    """Score tables of trained runs: head 0 over many augmented views of each training clip."""
    if not runs:
        print("no --run given: tables of training runs are left out", file=sys.stderr)
        return {}
    result = {}
    for run in runs:
        scores = real_scores(run, 64).to(device)
        # The earlier table of the warm start: the scores, moved by a twentieth of their spread.
        moved = scores + 0.05 * scores.std() * torch.randn_like(scores)
        marginal = gaussian_marginal(scores.shape[1], device)
        result[run.name] = compare(scores, moved, marginal, device, num_rounds) | {
            "num_clips": len(scores),
            "num_clusters": scores.shape[1],
        }
    return result


def real_scores(run_dir: Path, num_views: int) -> Tensor:
    """(clips x views, K) scores of head 0; the features are kept in the run folder."""
    from datamodules.clips import ClipDataModule
    from datamodules.stores.opening import open_media
    from selavi.inference.load import load_model
    from selavi.labelling.scores import combine_scores
    from selavi.runs.record import load_run

    run = load_run(run_dir)
    model, augment = load_model(run)
    kept = run_dir / "transport_benchmark_features.pt"
    if not kept.exists():
        data = ClipDataModule(run.config, run.manifest, open_media(run.config, run.manifest))
        parts: dict[str, list[Tensor]] = {name: [] for name in run.config.kinds}
        with torch.no_grad():
            for view in range(num_views):  # a pass number of the loader is a view
                for batch in data.labelling_loader(view):
                    for name, features in model.features(augment(batch, random=True)).items():
                        parts[name].append(features.float())
        torch.save({name: torch.cat(features) for name, features in parts.items()}, kept)
    features = torch.load(kept, weights_only=True)
    with torch.no_grad():
        logits = model.logits(features, [0])
    log_probabilities = {name: table[0].float().log_softmax(1) for name, table in logits.items()}
    present = torch.ones(len(next(iter(log_probabilities.values()))), dtype=torch.bool)
    return combine_scores(
        log_probabilities, dict.fromkeys(log_probabilities, 1.0), dict.fromkeys(log_probabilities, present)
    )


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "pass": section_pass,
    **{
        f"labels, spread {spread}": lambda device, num_rounds, spread=spread: section_labels(device, num_rounds, spread)
        for spread in SPREADS
    },
    "small": section_small,
    "passes": section_passes,
    "growth": section_growth,
    "memory": section_memory,
    "heads": section_heads,
    "streamed": section_streamed,
    "alignment": section_alignment,
    "real": section_real,
}


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name() if device != "cpu" else common.machine()["processor"]
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def results_path(device: str) -> Path:
    """One file a kind of device."""
    return ROOT / "benchmarks" / "results" / ("transport.json" if device == "cpu" else f"transport_{device}.json")


def run_section(name: str, args: argparse.Namespace) -> None:
    """Run one section in this process and put its figures into the results."""
    first_s = compile_first(args.device)
    call = SECTIONS[name]
    figures = call(args.device, args.rounds, args.run) if name == "real" else call(args.device, args.rounds)
    if not figures:
        return
    path = results_path(args.device)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name == "real" and name in results:
        figures = results[name]["figures"] | figures
    results[name] = {"machine": machine(args.device), "first_call_s": first_s, "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: results[name]}, indent=2))


def plot(results: dict[str, Any]) -> str:
    """Time to labels, a bar for each way, on a logarithmic axis from 0.1 s to 1,000 s."""
    colours = {"ours, cold": "#1b7f79", "ours, warm": "#6cc3bd", "scaling": "#c8553d", "POT": "#8d8d8d"}
    tables = {name: entry["figures"] for name, entry in results.items() if name.startswith("labels")}
    tables |= {f"real table, {run}": figures for run, figures in results.get("real", {}).get("figures", {}).items()}
    left, width, row = 320, 560, 17
    lines, y = [], 46
    low, high = -1.0, 3.0

    def place(seconds: float) -> float:
        return left + width * (max(np.log10(seconds), low) - low) / (high - low)

    for name, figures in tables.items():
        lines.append(f'<text x="8" y="{y + 12}" font-weight="bold">{name}</text>')
        y += row + 3
        for way, seconds in figures["seconds"].items():
            colour = next(value for prefix, value in colours.items() if way.startswith(prefix))
            end = place(seconds)
            lines.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{way}</text>')
            lines.append(
                f'<rect x="{left}" y="{y}" width="{max(end - left, 2):.1f}" height="{row - 4}" fill="{colour}"/>'
            )
            lines.append(f'<text x="{end + 5:.1f}" y="{y + 12}">{seconds:.3g} s</text>')
            y += row
        y += 8
    ticks = "".join(
        f'<line x1="{place(10.0**p):.0f}" x2="{place(10.0**p):.0f}" y1="36" y2="{y}" stroke="#ddd"/>'
        f'<text x="{place(10.0**p):.0f}" y="32" text-anchor="middle">{10.0**p:g} s</text>'
        for p in range(-1, 4)
    )
    title = f"Time to labels, {NUM_CLIPS:,} x {NUM_CLUSTERS} (real tables: 128,000), log scale"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{y + 10}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="16" font-size="14">{title}</text>{ticks}{"".join(lines)}</svg>\n'
    )


def page_of_labels(results: dict[str, Any]) -> str:
    """Time to labels, a line for each score table."""
    cases = {name.removeprefix("labels, "): entry["figures"] for name, entry in results.items() if "labels" in name}
    cases |= {f"trained, {run}": figures for run, figures in results.get("real", {}).get("figures", {}).items()}
    ways = ["scaling, original rule", "scaling, equal error", "POT sinkhorn (derived)", "POT sinkhorn_log (derived)"]
    rows = []
    for name, figures in cases.items():
        seconds, faster = figures["seconds"], figures["times_faster_cold"]
        rows.append(
            [
                name,
                f"{seconds['ours, cold']:.2f} s, {figures['cold']['passes']} passes",
                f"{seconds['ours, warm']:.2f} s, {figures['warm']['passes']} passes",
                *(f"{seconds[way]:.1f} s, x{faster[way]:.0f}" if way in seconds else "" for way in ways),
                f"{figures['same_labels_at_equal_error']:.3%}",
            ]
        )
    header = ["scores", "selavi, cold", "selavi, warm", "scaling, its own rule", "scaling, equal error"]
    header += ["POT sinkhorn", "POT sinkhorn_log", "same labels"]
    return "## Time to labels\n\n" + markdown_table(header, rows)


def page_of_reads(figures: dict[str, Any]) -> str:
    """One read of the table against the memory's limit."""
    rows = [[k, f"{v:.1f}", f"{figures['share_of_bandwidth'][k]:.0%}"] for k, v in figures["ms"].items()]
    limit = (
        f"The limit is the faster of torch's sum and maximum over the same table: {figures['bandwidth_gb_s']:.1f} GB/s."
    )
    return f"## One read of the table\n\n{limit}\n\n" + markdown_table(["", "ms", "share of the limit"], rows)


def page_of_passes(figures: dict[str, Any]) -> str:
    """Passes to the tolerance."""
    rows = []
    for name, found in figures.items():
        each = [f"{found[s]['passes']} ({found[s]['hessians']}), {found[s]['seconds']:.2f} s" for s in ("cold", "warm")]
        rows.append([name, *each])
    return (
        "## Passes to a marginal error of 1e-6\n\nIn brackets: how often the Hessian was summed.\n\n"
        + markdown_table(["clips x clusters", "cold", "warm"], rows)
    )


def page_of_the_rest(results: dict[str, Any]) -> str:
    """Growth, memory, ten heads, streaming, small problems."""
    parts = []
    if "growth" in results:
        figures = results["growth"]["figures"]
        rows = [[f"{int(n):,} x 309", f"{f['ns_per_clip']:.0f} ns a clip"] for n, f in figures["by_num_clips"].items()]
        rows += [
            [f"100,000 x {k}", f"{f['ns_per_entry']:.3f} ns an entry"] for k, f in figures["by_num_clusters"].items()
        ]
        parts.append("## Growth of a pass\n\n" + markdown_table(["clips x clusters", "time"], rows))
    rows = []
    if "memory" in results:
        f = results["memory"]["figures"]
        rows.append(
            [
                "one labelling beside its table",
                "",
                f"{f['above_table_gib']:.3f} GiB above {f['table_gib']:.2f} ({f['above_table_share']:.0%})",
            ]
        )
    if "heads" in results:
        f = results["heads"]["figures"]
        rows.append(
            [
                f"ten heads, {NUM_CLIPS:,} x {NUM_CLUSTERS}, from features",
                f"{f['seconds']:.1f} s cold, {f['seconds_warm']:.1f} s warm",
                f"{f['above_features_gib']:.2f} GiB above the features",
            ]
        )
    if "streamed" in results:
        f = results["streamed"]["figures"]
        rows.append(
            [
                f"streamed, {f['num_clips']:,} x {f['num_clusters']} from {f['num_features']} features",
                f"{f['seconds']:.0f} s, {f['passes']} passes",
                f"{f['above_features_gib']:.2f} GiB above the features; the table would be "
                f"{f['table_would_be_gib']:.1f}",
            ]
        )
    if "alignment" in results:
        rows += [
            [f"alignment of two modalities, {name}", f"{f['cost_s']:.1f} s costs, {f['assign_s']:.1f} s assignment", ""]
            for name, f in results["alignment"]["figures"].items()
        ]
    parts.append("## Whole labellings, memory, alignment\n\n" + markdown_table(["", "time", "peak memory"], rows))
    if "small" in results:
        rows = [
            [k, f"{1e3 * v['ours']:.1f}"]
            + [f"{1e3 * (v[way] + v['sharpening']):.1f}" for way in ("scaling, equal error", "scaling, original rule")]
            + [f"{v['original_error']:.0e}"]
            for k, v in results["small"]["figures"].items()
        ]
        parts.append(
            "## A million entries\n\nFrom the scores to the labels, in milliseconds; the original's rule stops at the "
            "error in the last column.\n\n"
            + markdown_table(
                ["clips x clusters", "selavi", "scaling, equal error", "scaling, its own rule", "its error"], rows
            )
        )
    return "\n\n".join(parts)


def page_of_gpu(results: dict[str, Any]) -> str:
    """What `--device cuda` gave."""
    machine = next(iter(results.values()))["machine"]
    rows = []
    for name, entry in results.items():
        figures = entry["figures"]
        if name.startswith("labels"):
            slow = figures["equal_error"]["seconds"]
            cold, warm = (figures["seconds"][f"ours, {way}"] for way in ("cold", "warm"))
            rows.append(
                [
                    name.removeprefix("labels, "),
                    f"{1e3 * cold:.1f} ms, {figures['cold']['passes']} passes",
                    f"{1e3 * warm:.1f} ms, {figures['warm']['passes']} passes",
                    f"{1e3 * slow:.0f} ms, x{slow / cold:.1f}",
                    f"{figures['same_labels_at_equal_error']:.3%}",
                ]
            )
    parts = [
        f"## On a GPU\n\n`python benchmarks/transport.py --device cuda`: {machine['device']}, torch "
        f"{machine['torch']}, {machine['date'][:10]}. Scaling runs on the same GPU, in float64.\n\n"
        + markdown_table(
            ["scores", "selavi, cold", "selavi, warm", "scaling, equal error", "same labels"],
            rows,
        )
    ]
    if "pass" in results:
        figures = results["pass"]["figures"]
        share = figures["share_of_bandwidth"]["pass"]
        parts.append(
            f"A pass takes {figures['ms']['pass']:.2f} ms, {share:.0%} of the bandwidth of a plain read "
            f"({figures['bandwidth_gb_s']:,.0f} GB/s)."
        )
    if "heads" in results:
        heads = results["heads"]["figures"]
        parts.append(
            f"Ten heads at {NUM_CLIPS:,} x {NUM_CLUSTERS} from features, one after the other: {heads['seconds']:.1f} "
            f"s, again {heads['seconds_warm']:.1f} s; {heads['above_features_gib']:.2f} GiB above the features."
        )
    if "streamed" in results:
        figures = results["streamed"]["figures"]
        parts.append(
            f"{figures['num_clips']:,} clips whose scores are computed at every read: {figures['seconds']:.1f} s, "
            f"{figures['passes']} passes, {figures['above_features_gib']:.2f} GiB beside the features."
        )
    return "\n\n".join(parts)


def where_measured(results: dict[str, Any]) -> str:
    """The machines, and what each of them measured where there are several; the solver is that of the day."""
    sections: dict[str, list[str]] = {}
    for name, section in results.items():
        made = section["machine"]
        about = f"{made['device']}, {made['threads']} threads, torch {made['torch']}, {made['date'][:10]}"
        sections.setdefault(about, []).append("trained tables" if name == "real" else name)
    if len(sections) == 1:
        return f"{next(iter(sections))}."
    latest = max(sections, key=lambda about: about.rsplit(", ", 1)[1])
    others = [
        f"{', '.join(names)}: {about}, the solver of that day" for about, names in sections.items() if about != latest
    ]
    return f"{latest}. {'; '.join(others)}."


def page(results: dict[str, Any]) -> str:
    """docs/results/transport.md."""
    intro = f"""# Label optimisation: measured

Written by `python benchmarks/transport.py --plot` from benchmarks/results/transport.json: medians of interleaved rounds
without compilation. {where_measured(results)}

The score tables are drawn ({NUM_CLIPS:,} clips, {NUM_CLUSTERS} clusters, skewed classes; spread is the deviation
of the logits) or come from a training on the digits of small_sets.md with 309 clusters: head 0 over 64 augmented views
of each of 2,000 clips, early, in the middle and at the end. Labels are those of an L1 error of the cluster masses of at
most 1e-6. `warm` starts from the potentials of a table that differs by a tenth (drawn) or a twentieth (trained) of its
spread. Scaling is Sinkhorn's algorithm in float64, two matrix-vector products an iteration, stopped by the original's
rule or at the same error as ours. POT's times are seconds an iteration times the
iterations that scaling takes to the same error.

![Time to labels](../images/transport.svg)
"""
    parts = [intro, page_of_labels(results)]
    if "pass" in results:
        parts.append(page_of_reads(results["pass"]["figures"]))
    if "passes" in results:
        parts.append(page_of_passes(results["passes"]["figures"]))
    parts.append(page_of_the_rest(results))
    if results_path("cuda").exists():
        parts.append(page_of_gpu(json.loads(results_path("cuda").read_text(encoding="utf-8"))))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the sections, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="run folders for the section real")
    parser.add_argument("--plot", action="store_true", help="only write the page and the picture")
    args = parser.parse_args()
    if args.section:
        run_section(args.section, args)
    elif not args.plot:
        for name in SECTIONS:
            command = [
                sys.executable,
                __file__,
                "--section",
                name,
                "--device",
                args.device,
                "--rounds",
                str(args.rounds),
            ]
            subprocess.run(command + (["--run", *map(str, args.run)] if args.run else []), check=True)
    if not args.section and args.device == "cpu":
        results = json.loads(results_path("cpu").read_text(encoding="utf-8"))
        (ROOT / "docs" / "images" / "transport.svg").write_text(plot(results), encoding="utf-8")
        (ROOT / "docs" / "results" / "transport.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
