"""What a GPU makes of a run: steps of training, passes for labelling, memory, whole trainings at the full size.

    python benchmarks/gpu.py                                    every case that is not done, one after the other
    python benchmarks/gpu.py --sections step ways               those of some sections, in this order
    python benchmarks/gpu.py --take FILE                        cases that another machine made, of one kind of GPU
    python benchmarks/gpu.py --page                             write docs/results/gpu.md again
    python benchmarks/gpu.py --device cpu --tiny --out FILE     at the size of a test, published nowhere

Each case is kept in benchmarks/results/gpu.json as it ends.  `whole` needs the sets of small_sets.py, the others no
data: batches are noise of the shape that the loader gives.  A way is timed between two synchronisations, over many
steps at once; ways of a case take turns.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from common import RESULTS, TINY, Job, machine, run_job, show_page
from flat import with_3d_convolutions
from gpu_page import page
from small_sets import SETS, find_sets
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from selavi.atomic import write_text
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, load_config
from selavi.encoders.r2plus1d import FlatConv3d, Pair
from selavi.model import SelaviModel
from selavi.training.callbacks import Poison, Progress
from selavi.training.module import SelaviModule
from selavi.training.objectives.cross_entropy import selavi_loss
from selavi.training.optim import make_optimizer
from selavi.training.speed import synthetic_batch
from selavi.training.trainer import make_trainer

CASES = [(30, 32), (30, 16), (30, 64), (16, 32), (16, 16), (16, 64)]
"""Frames and clips a step."""
COMPILED_CASES = [(30, 32), (16, 32)]
FULL = (
    *("video.num_frames=16", "video.decode_size=112", "video.size=112", "encoders.video_width=64"),
    *("encoders.video_depth=18", "encoders.audio_width=64", "trainer.precision=bf16-mixed", "data.num_workers=12"),
)
"""Over configs/small.yaml: the published encoders and picture."""
WHOLE = {
    "av_objects": ("trainer.max_epochs=40", "labelling.num_labellings=40"),
    "av_digits": ("trainer.max_epochs=45", "labelling.num_labellings=45"),
}
SEEDS = (0, 1, 2)
Done = Mapping[str, Any]
"""Cases of a section that are measured, by their names."""
Cases = Iterator[tuple[str, dict[str, Any]]]
"""Cases as they end: name and figures."""
SMALL = (*TINY, "heads.num_clusters=8", "optim.schedule=constant")


class Bench:
    """Where things are measured, and at what size.

    Args:
        device: cpu or cuda.
        tiny: at the size of a test.
    """

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny = torch.device(device), tiny
        self.seconds, self.rounds = (0.05, 2) if tiny else (1.0, 3)

    @property
    def name(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    def config(self, num_frames: int, batch_size: int, *more: str) -> Config:
        """The published recipe in bfloat16, or a tiny one."""
        size = (*SMALL, f"video.num_frames={min(num_frames, 2)}") if self.tiny else (f"video.num_frames={num_frames}",)
        words = (*size, f"optim.batch_size={min(batch_size, 4) if self.tiny else batch_size}", "trainer.max_epochs=1")
        where = ("trainer.devices=1", f"trainer.accelerator={'gpu' if self.on_gpu else 'cpu'}")
        return load_config(None, ["trainer.precision=bf16-mixed", *words, *where, *more])

    def wait(self) -> None:
        """Until the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def rates(self, ways: Mapping[str, Callable[[], Any]], clips: int) -> dict[str, float]:
        """Clips a second of each way, medians of rounds in which they take turns; each is warm."""
        counts: dict[str, int] = {}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for name, way in ways.items():
            for _ in range(2 if self.tiny else 5):
                way()
            counts[name] = max(2, round(self.seconds / self._seconds(way, 2)))
        for _ in range(self.rounds):
            for name, way in ways.items():
                rates[name].append(clips / self._seconds(way, counts[name]))
        return {name: median(values) for name, values in rates.items()}

    def _seconds(self, way: Callable[[], Any], times: int) -> float:
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            way()
        self.wait()
        return (time.perf_counter() - began) / times

    def peak_gib(self, way: Callable[[], Any]) -> float:
        """Most memory of the device that is taken while it runs, what stays included."""
        if not self.on_gpu:
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        way()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**30


class Bare:
    """The same model, loss and optimiser in a plain loop over inputs that lie on the device, augmented.

    Args:
        bench: where.
        config: of the run.
        precision: of the forward pass.
        channels_last: whether weights and inputs lie in memory with the channels innermost.
        compiled: whether the encoders are compiled.
        change: makes another video encoder of the model's.
    """

    def __init__(
        self,
        bench: Bench,
        config: Config,
        *,
        precision: str = "bf16",
        channels_last: bool = False,
        compiled: bool = False,
        change: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.precision = bench.device, precision
        self.model = SelaviModel(config).to(bench.device)
        if change is not None:
            self.model.encoders["video"] = change(self.model.encoders["video"])
        self.batch = synthetic_batch(config, config.optim.batch_size).to(bench.device)
        with torch.no_grad():
            inputs = Augment(config).to(bench.device)(self.batch, random=True)
        if channels_last:
            inputs = {name: _channels_last(values) for name, values in inputs.items()}
            _channels_last_weights(self.model)
        self.inputs = inputs
        if compiled:
            for name, encoder in self.model.encoders.items():
                self.model.encoders[name] = torch.compile(encoder)  # type: ignore[assignment]
        self.optimizer = make_optimizer(self.model, config.optim, config.optim.batch_size)
        shape = len(self.batch.index), config.num_label_heads
        self.labels = torch.randint(config.heads.num_clusters, shape, device=bench.device)

    def loss(self) -> Tensor:
        """Of the batch."""
        with self._cast():
            logits = self.model(self.inputs, self.batch.present)
            return selavi_loss(logits, self.labels, self.model.branch_present(self.batch.present))

    def step(self) -> None:
        """One step of training."""
        self._allow_tf32()
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def encode(self) -> None:
        """The encoders without gradient."""
        self._allow_tf32()
        with self._cast():
            self.model.features(self.inputs)

    def _cast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _allow_tf32(self) -> None:
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"


class Steps:
    """Steps as a run makes them: Lightning's loop over pinned batches with the callbacks that look at each step."""

    def __init__(self, bench: Bench, config: Config, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.batch = synthetic_batch(config, config.optim.batch_size)
        if bench.on_gpu:
            self.batch = self.batch.pin_memory()
        self.ids = [f"clip{number}" for number in range(config.optim.batch_size)]
        self.config = config

    def rate(self, warm: int, timed: int) -> float:
        """Clips a second over `timed` steps after `warm` ones."""
        module = SelaviModule(self.config, self.ids, warm + timed)
        bank = module.label_bank
        bank.labels = torch.randint_like(bank.labels, self.config.heads.num_clusters)
        bank.num_labellings = 1
        progress, clock = Progress(self.config, self.ids), Clock(self.bench, warm)
        trainer = make_trainer(self.config, [progress, Poison(self.config, self.ids), clock])
        trainer.fit(module, train_dataloaders=Repeated(self.batch, warm + timed))
        return timed * self.config.optim.batch_size / (clock.ended - clock.began)


class Repeated:
    """A loader that gives one batch again and again."""

    def __init__(self, batch: ClipBatch, times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter([self.batch] * self.times)


class Clock(pl.Callback):
    """Notes when the device has done the last step of the warm-up, and all.

    Args:
        bench: where.
        warm: steps of the warm-up.
    """

    def __init__(self, bench: Bench, warm: int) -> None:
        self.bench, self.warm = bench, warm
        self.began = self.ended = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """See above."""
        if trainer.global_step == self.warm:
            self.bench.wait()
            self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """See above."""
        self.bench.wait()
        self.ended = time.perf_counter()


def _channels_last(values: Tensor) -> Tensor:
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(values.ndim, torch.contiguous_format)
    return values.contiguous(memory_format=form)


def _channels_last_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = _channels_last(parameter.data)


def with_channels_in_eights(encoder: nn.Module) -> nn.Module:
    """An encoder whose pairs of convolutions have the next multiple of 8 channels between them; of other weights."""
    changed = deepcopy(encoder)
    for pair in changed.modules():
        if isinstance(pair, Pair):
            pair[0] = _wider(pair[0], num_outputs=_in_eights(pair[0].out_channels))
            pair[1] = nn.BatchNorm3d(pair[0].out_channels)
            pair[3] = _wider(pair[3], num_inputs=pair[0].out_channels)
    return changed.to(next(encoder.parameters()).device, memory_format=torch.channels_last_3d)


def _in_eights(number: int) -> int:
    return -(-number // 8) * 8


def _wider(layer: FlatConv3d, num_inputs: int = 0, num_outputs: int = 0) -> FlatConv3d:
    shape = num_inputs or layer.in_channels, num_outputs or layer.out_channels
    return FlatConv3d(*shape, layer.kernel_size, layer.stride, layer.padding, bias=False)


def flops_of_step(bare: Bare) -> int:
    """Floating-point operations of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        bare.loss().backward()
    bare.optimizer.zero_grad()
    return int(counter.get_total_flops())


def clean(bench: Bench) -> None:
    """Give back what is not used any more."""
    gc.collect()
    torch.compiler.reset()
    if bench.on_gpu:
        torch.cuda.empty_cache()


def measure_step(bench: Bench, folder: Path, done: Done) -> Cases:
    """Clips a second of training: a plain loop of the model, and a run's own steps."""
    yield from measure_both(bench, folder, done, CASES, compiled=False)


def measure_compiled(bench: Bench, folder: Path, done: Done) -> Cases:
    """The same with compiled encoders."""
    yield from measure_both(bench, folder, done, COMPILED_CASES, compiled=True)


def measure_both(bench: Bench, folder: Path, done: Done, cases: Sequence[tuple[int, int]], *, compiled: bool) -> Cases:
    """See measure_step."""
    for frames, clips in cases[:1] if bench.tiny else cases:
        name = f"{frames} frames, {clips} clips"
        if name in done:
            continue
        where = f"run_dir={folder / f'step-{frames}-{clips}'}"
        config = bench.config(frames, clips, where, f"trainer.compile={str(compiled).lower()}")
        bare = Bare(bench, config, compiled=compiled)
        # Operations are counted as they are called, by the plain loop for both.
        entry = {} if compiled else {"flops_a_clip": flops_of_step(bare) / config.optim.batch_size}
        [rate] = bench.rates({"bare": bare.step}, config.optim.batch_size).values()
        entry |= {"bare": rate, "bare_gib": bench.peak_gib(bare.step)}
        del bare
        clean(bench)
        timed = 4 if bench.tiny else max(10, round(2 * rate / clips))
        entry["selavi"] = Steps(bench, config, folder).rate(2 if bench.tiny else 10, timed)
        yield name, entry
        clean(bench)


def measure_ways(bench: Bench, folder: Path, done: Done) -> Cases:
    """Clips a second of the plain loop with what may make it faster, at 30 frames."""
    ways: dict[str, dict[str, Any]] = {
        "bfloat16": {},
        "bfloat16, 3-D convolutions": {"change": with_3d_convolutions},
        "bfloat16, channels in eights": {"change": with_channels_in_eights},
        "bfloat16, compiled": {"compiled": True, "benchmark": True},
        "bfloat16, channels in eights, compiled": {
            "change": with_channels_in_eights,
            "compiled": True,
            "benchmark": True,
        },
        "float32": {"precision": "float32"},
        "float32, TF32 allowed": {"precision": "tf32"},
        "bfloat16, algorithms tried": {"benchmark": True},
        "bfloat16, channels last": {"channels_last": True},
        "bfloat16, channels last, algorithms tried": {"channels_last": True, "benchmark": True},
        "bfloat16, channels last, compiled": {"channels_last": True, "compiled": True, "benchmark": True},
    }
    config = bench.config(*CASES[0])
    for name, settings in ways.items():
        if name in done:
            continue
        kept = dict(settings)
        torch.backends.cudnn.benchmark = bool(kept.pop("benchmark", False))
        if kept.get("compiled") and bench.tiny:
            continue
        try:
            bare = Bare(bench, config, **kept)
            began = time.perf_counter()
            bare.step()
            bench.wait()
            first_s = time.perf_counter() - began
            gib = bench.peak_gib(bare.step)
            training = bench.rates({"step": bare.step}, config.optim.batch_size)["step"]
            bare.model.eval()
            labelling = bench.rates({"encode": bare.encode}, config.optim.batch_size)["encode"]
            yield name, {"training": training, "labelling": labelling, "gib": gib, "first_s": first_s}
        except Exception as error:  # what one way cannot do is a finding, and the others are measured
            yield name, {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        bare = None  # type: ignore[assignment]
        clean(bench)
    torch.backends.cudnn.benchmark = False


def measure_parts(bench: Bench, folder: Path, done: Done) -> Cases:
    """Milliseconds of the parts of a step at 30 frames: copy, augmentation, forward, backward, optimiser."""
    if done:
        return
    config = bench.config(*CASES[0])
    bare, augment = Bare(bench, config), Augment(config).to(bench.device)
    batch = synthetic_batch(config, config.optim.batch_size)
    batch = batch.pin_memory() if bench.on_gpu else batch
    there = batch.to(bench.device)

    def augmented() -> None:
        with torch.no_grad(), bare._cast():
            augment(there, random=True)

    def backward() -> None:
        bare.loss().backward()

    calls = {
        "copy": lambda: batch.to(bench.device),
        "augmentation": augmented,
        "forward": bare.loss,
        "forward and backward": backward,
        "step": bare.step,
    }
    rates = bench.rates(calls, 1)
    for name, rate in rates.items():
        yield name, {"ms": 1e3 / rate}


def measure_whole(bench: Bench, folder: Path, done: Done) -> Cases:
    """Trainings at the full size, with what their labels are worth."""
    folders = find_sets(list(WHOLE))
    for seed in SEEDS:
        for name, epochs in WHOLE.items():
            small_set = SETS[name]
            title = f"{small_set.folder}-seed{seed}"
            if small_set.variable not in folders or bench.tiny or title in done:
                continue
            overrides = (f"data.root=${small_set.variable}", *small_set.overrides, *epochs, *FULL)
            where = (f"trainer.accelerator={'gpu' if bench.on_gpu else 'cpu'}",)
            job = Job("gpu", title, small_set.name, seed, "configs/small.yaml", (*overrides, *where), ("train", "test"))
            yield title, run_job(job, folders)


SECTIONS = {
    "step": measure_step,
    "ways": measure_ways,
    "compiled": measure_compiled,
    "parts": measure_parts,
    "whole": measure_whole,
}


def run(sections: Sequence[str], bench: Bench, store: Path) -> None:
    """Measure the cases of sections that are not done, and keep each as it ends."""
    made = {"device": bench.name, **machine(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    made["timed"] = f"medians of {bench.rounds} rounds of {bench.seconds:g} s"
    for section in sections:
        results = stored(store)
        done = results.setdefault(section, {})
        for name, figures in SECTIONS[section](bench, store.parent / "gpu-work", dict(done)):
            done[name] = {**figures, "made": made}
            write_text(store, json.dumps(results, indent=1) + "\n")
            print(f"{section}, {name}: {figures}", flush=True)


def stored(store: Path) -> dict[str, dict[str, Any]]:
    """Section -> case -> its figures, and where they were made."""
    return dict(json.loads(store.read_text(encoding="utf-8"))) if store.exists() else {}


def take(path: Path) -> None:
    """Add the cases of another gpu.json to the published ones."""
    store = RESULTS / "gpu.json"
    results = stored(store)
    for section, cases in stored(path).items():
        results.setdefault(section, {}).update(cases)
    write_text(store, json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="at the size of a test")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="file of the results")
    parser.add_argument("--take", type=Path, metavar="FILE", help="add the cases of another gpu.json")
    parser.add_argument("--page", action="store_true", help="write the page from the results, and do nothing else")
    args = parser.parse_args()
    if args.take:
        take(args.take)
    elif not args.page:
        run(args.sections, Bench(args.device, args.tiny), args.out)
    if args.out == RESULTS / "gpu.json":
        show_page("gpu", page(stored(args.out), CASES, COMPILED_CASES), args.tiny)


if __name__ == "__main__":
    main()
