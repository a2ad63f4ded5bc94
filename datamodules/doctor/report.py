"""What tools/doctor.py finds out about this installation, this machine and these data.

At the top only what always imports: doctor has to come up where torch or PyAV does not.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datamodules.doctor.throughput import DataSpeed, Flow
    from selavi.config import Config

Mark = Literal["ok", "warning", "problem"]
_WORST: dict[Mark, int] = {"ok": 0, "warning": 1, "problem": 2}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    area: str
    name: str
    mark: Mark
    found: str
    advice: str = ""
    """What to change; empty where nothing is wrong."""


@dataclass(frozen=True)
class Advice:
    """A change that makes a run faster."""

    change: str
    gain: float
    """Time of a run as it is, divided by the time with the change."""
    clips_per_s: float
    """Of the run with the change."""


@dataclass(frozen=True)
class Outcome:
    """How a piece of Python ended in a process of its own."""

    error: str = ""
    """What it wrote to standard error, or how it was killed; empty: it ended well."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The JSON object it printed."""


# ---- the installation ----

_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch
    there = torch.cuda.is_available()
gpus = []
for number in range(torch.cuda.device_count() if there else 0):
    of = torch.cuda.get_device_properties(number)
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    gpus.append({"name": of.name, "memory_gb": of.total_memory / 1e9, "bf16": bf16})
said = [str(one.message) for one in said if "CUDA" in str(one.message) or "NVIDIA" in str(one.message)]
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "said": said}))
"""
_AV = """
import json
import av

def there(name, mode):
    try:
        return bool(av.codec.Codec(name, mode))
    except av.codec.codec.UnknownCodecError:
        return False

print(json.dumps({
    "ffmpeg": av.ffmpeg_version_info,
    "libraries": {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()},
    "decoders": [name for name in ("h264", "hevc", "vp9", "aac", "opus") if there(name, "r")],
    "encoders": [name for name in ("libx264", "aac") if there(name, "w")],
}))
"""
PROBES = {
    "torch": _TORCH,
    "torchvision": "import torchvision",
    "torchaudio": "import torchaudio",
    "pytorch-lightning": "import pytorch_lightning",
    "av": _AV,
    "numba": "import numba",
    "scikit-learn": "import sklearn",
    "pyarrow": "import pyarrow",
    "omegaconf": "import omegaconf",
}
"""Package -> what is run in a process of its own to see whether it works."""

_MALWARE = {"pytorch-lightning": ("2.6.2", "2.6.3"), "lightning": ("2.6.2", "2.6.3")}
_TORCH_FAMILY = ("torch", "torchvision", "torchaudio")


def run_probe(code: str, timeout_s: float = 120.0) -> Outcome:
    """Run a piece of Python in a process of its own: whatever happens there, doctor lives on."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Outcome(f"it takes more than {timeout_s:.0f} s to import: a slow or hanging disk?")
    if done.returncode < 0:
        return Outcome(f"the process that imported it was killed by signal {-done.returncode}\n{done.stderr}")
    if done.returncode:
        return Outcome(done.stderr or f"exit code {done.returncode}")
    return Outcome(facts=json.loads(done.stdout) if done.stdout.startswith("{") else {})


def installed() -> tuple[list[str], dict[str, str | None]]:
    """What selavi requires (lines such as `av>=18.1`), and the versions there are, None for what is not installed."""
    try:
        required = metadata.requires("selavi") or []
    except metadata.PackageNotFoundError:
        required = []
    required = [line for line in required if "extra ==" not in line]
    named = {_split_requirement(line)[0] for line in required}
    required += [name for name in PROBES if name not in named]  # selavi was installed by an older setup.cfg, or not
    names = ["selavi", *(_split_requirement(line)[0] for line in required), "lightning"]
    return required, {name: _version(name) for name in names}


def check_packages(
    required: Sequence[str], versions: Mapping[str, str | None], probe: Callable[[str], Outcome] = run_probe
) -> tuple[list[Check], dict[str, Outcome]]:
    """Compare versions with what is required, import what matters, and name the known ways of breaking.

    Args:
        required: requirements such as `torch>=2.11,<2.15`.
        versions: version of each package, None where it is not installed.
        probe: runs a piece of Python.

    Returns:
        A check for each package, and how the imports of PROBES ended.
    """
    malware = [f"{name} {versions.get(name)}" for name, bad in _MALWARE.items() if versions.get(name) in bad]
    tried = [name for name in PROBES if versions.get(name) and not (malware and name == "pytorch-lightning")]
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(tried, pool.map(probe, [PROBES[name] for name in tried]), strict=True))
    checks = [_check_selavi(versions.get("selavi"))]
    for line in required:
        name, limits = _split_requirement(line)
        version = versions.get(name)
        if version is None:
            checks.append(Check("packages", name, "problem", "not installed", f"python -m pip install '{line}'"))
            continue
        found, faults = version, []
        if name == "torch" and name in outcomes and not outcomes[name].error:
            found += f" (CUDA {outcomes[name].facts['cuda']})" if outcomes[name].facts["cuda"] else " (CPU only)"
        verdict, advice = _compare(version, limits), f"python -m pip install '{line}'"
        if verdict in ("too old", "excluded"):
            faults.append(("problem", f"{verdict}: selavi needs {limits}", advice))
        if verdict == "too new":
            faults.append(("warning", f"selavi was made for {limits}", advice))
        if name in _TORCH_FAMILY and (mixed := _mixed_builds(name, versions)):
            faults.append(("warning", mixed, _install_torch(required)))
        if name in outcomes and outcomes[name].error:
            faults.insert(0, ("problem", _explain(name, outcomes), _repair(name, line, required)))
        checks.append(_joined("packages", name, found, faults))
    if malware:
        advice = (
            "remove it now (python -m pip uninstall pytorch-lightning lightning), take this machine's passwords and "
            "tokens for stolen, then install selavi anew; doctor did not import it"
        )
        named = " and ".join(malware)
        checks.append(Check("packages", "malware", "problem", f"{named} carried malware (GHSA-w37p-236h-pfx3)", advice))
    return checks, outcomes


def check_codecs(av: Outcome) -> list[Check]:
    """FFmpeg's version, and which of the usual codecs PyAV brings."""
    if av.error:
        return []
    libraries = av.facts["libraries"]
    found = f"{av.facts['ffmpeg']} (libavcodec {libraries['libavcodec']}, libswscale {libraries['libswscale']})"
    checks = [Check("media", "FFmpeg in av", "ok", found)]
    for kind, wanted, lost in (
        ("decoders", ("h264", "hevc", "vp9", "aac", "opus"), "files with them count as corrupt or without sound"),
        ("encoders", ("libx264", "aac"), "the demo set and tools/prepare.py --format files need them"),
    ):
        there = av.facts[kind]
        missing = [name for name in wanted if name not in there]
        if missing:
            text = f"no {', no '.join(missing)}: {lost}"
            advice = "the av of the package registry has them all: python -m pip install --force-reinstall av"
            checks.append(Check("media", kind, "warning", text, advice))
        else:
            checks.append(Check("media", kind, "ok", ", ".join(there)))
    return checks


def check_decoding(folder: Path) -> Check:
    """Write a clip with a flash and a click at one moment, read it back, and compare the moments."""
    import numpy as np

    from selavi import media

    fps, rate, moment_s, start_s, clip_s = 25, 16_000, 1.0, 0.4, 1.2
    frames = np.full((2 * fps, 64, 64, 3), 30, np.uint8)
    frames[round(moment_s * fps) :][:3] = 220
    waveform = np.zeros(2 * rate, np.float32)
    waveform[round(moment_s * rate) :][:80] = 0.8 * np.sin(np.arange(80))
    name, advice = "decode test", "python -m pip install --force-reinstall 'av>=18.1'; if it stays, report it as a bug"
    try:
        media.encode_clip(folder / "doctor.mp4", frames, waveform, fps=fps, sample_rate=rate)
        seen, heard = media.decode_clip(
            folder / "doctor.mp4", start_s, clip_s, num_frames=30, size=64, offset=0.5, sample_rate=rate
        )
    except Exception as error:  # of PyAV, numpy or selavi: any of them is what doctor is here to report
        return Check("media", name, "problem", f"{type(error).__name__}: {error}", advice)
    if seen is None or heard is None or seen.mean((1, 2, 3)).max() < 120 or not np.abs(heard / 1.0).max():
        return Check("media", name, "problem", "the flash or the click is not in what was decoded", advice)
    flash_s = start_s + np.argmax(seen.mean((1, 2, 3)) > 120) * clip_s / 30
    level = np.abs(heard / 1.0)
    click_s = start_s + np.argmax(level > level.max() / 2) / rate
    found = f"flash at {flash_s:.3f} s, click at {click_s:.3f} s, written at {moment_s:.3f} s"
    agrees = abs(flash_s - moment_s) <= 1 / fps + 1e-6 and abs(click_s - moment_s) <= 0.01
    return Check("media", name, "ok", found) if agrees else Check("media", name, "problem", found, advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_selavi(version: str | None) -> Check:
    if version is None:
        text = "not installed as a package: doctor does not know which versions it needs"
        return Check("packages", "selavi", "warning", text, "python -m pip install --editable . in its folder")
    return Check("packages", "selavi", "ok", version)


def _split_requirement(line: str) -> tuple[str, str]:
    """`av>=15.1` -> (av, >=15.1)."""
    found = re.match(r"[\w.-]+", line)
    assert found is not None, line
    return found[0], line[found.end() :].split(";")[0].strip()


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _compare(version: str, limits: str) -> str:
    """`too old`, `too new` or `excluded` where a version is outside of its limits; else empty.

    So too where that cannot be told: a version that follows no rule, or no `packaging`, which is named as missing.
    """
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import Version
    except ImportError:
        return ""
    try:
        own = Version(version)
        broken = [one.operator for one in SpecifierSet(limits) if not one.contains(own, prereleases=True)]
    except (InvalidSpecifier, ValueError):  # InvalidVersion is a ValueError
        return ""
    if any(sign in (">=", ">", "~=") for sign in broken):
        return "too old"
    return "too new" if any(sign in ("<", "<=") for sign in broken) else "excluded" if broken else ""


def _mixed_builds(name: str, versions: Mapping[str, str | None]) -> str:
    """What is wrong between a package of the torch family and torch, by the versions alone; empty: nothing known."""
    torch, own = versions.get("torch"), versions.get(name)
    if not torch or not own or name == "torch":
        return ""
    if ("+cpu" in torch) != ("+cpu" in own):
        return f"mixed builds: {name} {own} beside torch {torch}; a CPU-only build does not work with the others"
    made_for = _numbers(own)[1] - 15 if name == "torchvision" else None
    if made_for is not None and _numbers(torch)[:2] != (2, made_for):
        return f"mixed builds: torchvision {own} is made for torch 2.{made_for}, not {torch}"
    if name == "torchaudio" and _numbers(torch) >= (2, 15):
        return f"mixed builds: torchaudio {own} is built for CUDA 13.0, torch {torch} for 13.2"
    return ""


def _explain(name: str, outcomes: Mapping[str, Outcome]) -> str:
    """Why an import failed, in one line."""
    error = outcomes[name].error
    for other in ("torch", "torchvision", "torchaudio"):
        if name != other and other in outcomes and outcomes[other].error and (other == "torch" or other in error):
            return f"does not import because {other} does not"
    last = next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "no message")
    if "torchvision::nms" in error:
        why = "its compiled part does not fit this torch: "
    elif re.search(r"libtorch_cuda|libc10_cuda|libcudart|libnvrtc|different CUDA versions", error):
        why = "it is built for another CUDA than this torch, or torch is CPU-only: "
    elif re.search(r"undefined symbol|_torchaudio|Could not load", error):
        why = "it is built for another torch: "
    else:
        why = ""
    return f"does not import: {why}{last[:300]}"


def _repair(name: str, line: str, required: Sequence[str]) -> str:
    if name in (*_TORCH_FAMILY, "pytorch-lightning"):
        return _install_torch(required)
    return f"python -m pip install --force-reinstall '{line}'"


def _install_torch(required: Sequence[str]) -> str:
    family = " ".join(f"'{line}'" for line in required if _split_requirement(line)[0] in _TORCH_FAMILY)
    return f"install the three together, all from the one registry: python -m pip install --force-reinstall {family}"


def _joined(area: str, name: str, found: str, faults: Sequence[tuple[Any, str, str]]) -> Check:
    """One check of several faults: the worst mark, every text, each advice once."""
    mark: Mark = max((fault[0] for fault in faults), key=lambda mark: _WORST[mark], default="ok")
    advice = list(dict.fromkeys(advice for _, _, advice in faults))
    return Check(area, name, mark, "; ".join([found, *(text for _, text, _ in faults)]), advice[0] if advice else "")


# ---- the machine ----


@dataclass(frozen=True)
class Machine:
    """What this process may use, as the system and its control group say."""

    cores: int
    memory_bytes: int
    """Free for use now."""
    shared_bytes: int
    """Free in /dev/shm; -1: there is none."""
    disk_bytes: int
    """Free where data.cache_dir is."""
    open_files: int
    """Most that one process may open."""
    gpus: Sequence[Mapping[str, Any]]
    """Name, memory_gb and bf16 of each that torch sees."""
    no_gpu: str
    """Why torch sees none though there is a driver; empty otherwise."""
    processes: int
    """Of a run here, which share the cores: one a device."""
    on_gpu: bool
    """Whether a run here takes a GPU."""


PREFETCH = 2
"""Batches on their way from each loader process, as in datamodules/loading/loader.py."""
IN_USE = 2
"""Batches that have arrived, as there."""
_WORKER_BYTES = 400 * 2**20
"""Memory of a loader process: mostly torch."""
_FILES_A_WORKER = 6
"""Open files of the training process for each loader process: pipes."""


def read_machine(config: "Config", torch: Outcome) -> Machine:
    """Look at this machine, as a run with these settings would find it; `torch` is the outcome of its probe."""
    cores: float = len(os.sched_getaffinity(0))
    quota = _text("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, int(quota[0]) / int(quota[1]))
    available = re.search(r"MemAvailable:\s+(\d+)", _text("/proc/meminfo"))
    memory = int(available[1]) * 1024 if available else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    used = re.search(r"^anon (\d+)", _text("/sys/fs/cgroup/memory.stat"), re.MULTILINE)  # without the page cache
    if limit.isdigit() and used:
        memory = min(memory, int(limit) - int(used[1]))
    cache_dir, trainer = Path(config.data.cache_dir).absolute(), config.trainer
    folder = next(parent for parent in (cache_dir, *cache_dir.parents) if parent.is_dir())
    gpus, no_gpu = torch.facts["gpus"], ""
    if not gpus and os.path.exists("/proc/driver/nvidia/version"):
        no_gpu = "this torch is CPU-only" if torch.facts["cuda"] is None else " ".join(torch.facts["said"])[:300]
        no_gpu = no_gpu or "torch does not see it"
    on_gpu = bool(gpus) and trainer.accelerator != "cpu"
    named = len(trainer.devices) if isinstance(trainer.devices, list) else str(trainer.devices)
    processes = int(named) if str(named).isdigit() else len(gpus) if on_gpu else 1
    return Machine(
        cores=max(1, int(cores)),
        memory_bytes=memory,
        shared_bytes=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else -1,
        disk_bytes=shutil.disk_usage(folder).free,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        gpus=gpus,
        no_gpu=no_gpu,
        processes=max(1, processes),
        on_gpu=on_gpu,
    )


def clip_bytes(config: "Config") -> int:
    """Bytes of a decoded clip in a batch."""
    from selavi.modalities import num_bytes

    return num_bytes(config)


def check_machine(machine: Machine, config: "Config") -> list[Check]:
    """Compare a machine with what a run's loaders need.

    Training and labelling have loaders of their own; in a labelling the batches of both are there.
    """
    data, workers = config.data, config.data.num_workers
    checks = []
    if workers > machine.cores:
        text = f"{machine.cores} for this process, but data.num_workers={workers}"
        checks.append(Check("machine", "cores", "warning", text, f"data.num_workers={machine.cores}: more do not help"))
    else:
        checks.append(Check("machine", "cores", "ok", f"{machine.cores} for this process"))

    needed = 2 * workers * _WORKER_BYTES + 2**30
    text = f"{_gb(machine.memory_bytes)} free"
    if machine.memory_bytes < needed:
        text += f", the loader processes and a model want about {_gb(needed)}"
        checks.append(Check("machine", "memory", "warning", text, "lower data.num_workers"))
    else:
        checks.append(Check("machine", "memory", "ok", text))

    of_both = config.optim.batch_size + config.labelling.batch_size
    needed = clip_bytes(config) * of_both * (PREFETCH * workers + IN_USE)
    text = f"{_gb(machine.shared_bytes)} free, {_gb(needed)} needed ({workers} loader processes)"
    if not workers or machine.shared_bytes < 0:
        text = "not used: data.num_workers=0" if not workers else "there is none"
        checks.append(Check("machine", "/dev/shm", "ok", text))
    elif machine.shared_bytes < needed:
        advice = (
            f"start the container with more (docker run --shm-size={-(-2 * needed // 2**30)}g), or lower "
            "data.num_workers, optim.batch_size or labelling.batch_size; data.num_workers=0 needs none"
        )
        checks.append(Check("machine", "/dev/shm", "problem", text, advice))
    else:
        checks.append(Check("machine", "/dev/shm", "ok", text))

    text = f"{_gb(machine.disk_bytes)} free where data.cache_dir is"
    if machine.disk_bytes < data.cache_gb * 1e9:
        advice = "point data.cache_dir at a larger disk, or lower data.cache_gb"
        checks.append(Check("machine", "disk", "warning", f"{text}, data.cache_gb={data.cache_gb:g}", advice))
    else:
        checks.append(Check("machine", "disk", "ok", text))

    wanted = 256 + 2 * workers * _FILES_A_WORKER
    text = f"{machine.open_files} for a process"
    if machine.open_files < wanted:
        text += f", {workers} loader processes want about {wanted}"
        checks.append(Check("machine", "open files", "warning", text, f"ulimit -n {max(4096, 2 * wanted)}"))
    else:
        checks.append(Check("machine", "open files", "ok", text))
    return [*checks, _check_gpu(machine, config)]


def _check_gpu(machine: Machine, config: "Config") -> Check:
    gpus, wanted = machine.gpus, config.trainer.accelerator
    if wanted == "cpu":
        return Check("machine", "GPU", "ok", "not used: trainer.accelerator=cpu")
    if not gpus:
        mark: Mark = "problem" if wanted in ("gpu", "cuda") else "warning"
        if machine.no_gpu:
            advice = "a newer driver, or torch's build for the CUDA that this driver knows"
            return Check("machine", "GPU", mark, f"there is a driver, but {machine.no_gpu}", advice)
        advice = "without one train small models: the configurations demo and small, trainer.accelerator=cpu"
        return Check("machine", "GPU", mark, "none", advice)
    shown, bf16 = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:.0f} GB)" for gpu in gpus), gpus[0]["bf16"]
    if config.trainer.precision == "bf16-mixed" and not bf16:
        text = f"{shown}: bfloat16 is emulated there, and slow"
        return Check("machine", "GPU", "warning", text, "trainer.precision=32-true")
    return Check("machine", "GPU", "ok", f"{shown}, {'bfloat16' if bf16 else 'no bfloat16'}")


def _text(path: str) -> str:
    """A file of the system, empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.0f} MB"


# ---- the report ----


@dataclass
class Report:
    """Everything found, in order."""

    checks: list[Check] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)

    def add_model(self, training: float, labelling: float, batch_size: int, device: str) -> None:
        """Note what the model eats, in clips a second, and the batch it was timed on."""
        self.measured["model"] = {"training": training, "labelling": labelling, "batch_size": batch_size}
        text = f"training {training:.1f}, labelling {labelling:.1f} clips/s, {batch_size} clips a batch, on {device}"
        self.checks.append(Check("speed", "model", "ok", text))

    def add_flow(self, flow: "Flow", data: "DataSpeed") -> None:
        """Note what the data give, in clips a second, and which of the two holds a run back."""
        self.measured["data"] = asdict(data)
        named = f"{flow.workers} loader processes" if flow.workers else "the training process (data.num_workers=0)"
        mark: Mark = "warning" if flow.waits() else "ok"
        rest = max(0.0, 1 - flow.model_s() / flow.clip_s())
        if flow.waits():
            self.measured["bottleneck"] = "data"
            verdict = f"the data: {rest:.0%} of a run's time is waiting for them"
        else:
            self.measured["bottleneck"] = "model"
            verdict = f"the model: the data take {rest:.0%} of a run's time"
        self.checks += [
            Check("speed", "data, one process", "ok", f"{data.one:.1f} clips/s"),
            Check("speed", "data, as configured", mark, f"{flow.loader:.1f} clips/s from {named}"),
            Check("speed", "bottleneck", mark, verdict),
        ]
        if data.faults:
            text = f"{data.faults} of {data.clips} clips could not be decoded"
            advice = "python tools/scan.py names the files; docs/data.md the reasons"
            self.checks.append(Check("speed", "faults", "warning", text, advice))

    @property
    def problems(self) -> list[Check]:
        """What makes training impossible."""
        return [check for check in self.checks if check.mark == "problem"]

    def as_json(self) -> str:
        """One JSON object in one line."""
        return json.dumps(
            {
                "python": sys.version.split()[0],
                "checks": [asdict(check) for check in self.checks],
                "measured": self.measured,
                "advice": [asdict(one) for one in self.advice],
            }
        )

    def as_text(self) -> str:
        """A table: mark, name, what was found; below what is not ok, what to do."""
        lines = [f"python {sys.version.split()[0]} on {os.uname().sysname} {os.uname().release}"]
        width = max((len(check.name) for check in self.checks), default=0)
        area = ""
        for check in self.checks:
            if check.area != area:
                area = check.area
                lines += ["", area]
            lines.append(f"  {check.mark:<8} {check.name:<{width}}  {check.found}")
            if check.advice:
                lines.append(f"  {'':<8} {'':<{width}}  -> {check.advice}")
        if self.advice:
            lines += ["", "what would make a run faster, as measured here"]
            lines += [f"  x{one.gain:<7.2f} {one.change}  ({one.clips_per_s:.1f} clips/s)" for one in self.advice]
        return "\n".join(lines)


def examine_installation(folder: Path) -> tuple[list[Check], dict[str, Outcome]]:
    """Packages, codecs and the decode test; `folder` is temporary."""
    checks, outcomes = check_packages(*installed())
    checks += check_codecs(outcomes.get("av", Outcome("not installed")))
    if not any(check.mark == "problem" for check in checks):
        checks.append(check_decoding(folder))
    return checks, outcomes
