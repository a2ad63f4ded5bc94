"""What is installed here, and whether it works: versions, imports, codecs and a decoding test.

What may be broken is imported late or in a process of its own: doctor has to come up where torch or PyAV does not.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from datamodules.doctor.report import Check, Mark, Outcome, worst
from selavi.wording import command

_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
gpus = []
for number in range(num_gpus):
    properties = torch.cuda.get_device_properties(number)
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    gpus.append({"name": properties.name, "memory_gb": properties.total_memory / 1e9, "bf16": bf16})
messages = [str(warning.message) for warning in caught]
messages = [message for message in messages if "CUDA" in message or "NVIDIA" in message]
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "said": messages}))
"""
_AV = """
import json
import av

def has_codec(name, mode):
    try:
        return bool(av.codec.Codec(name, mode))
    except av.codec.codec.UnknownCodecError:
        return False

print(json.dumps({
    "ffmpeg": av.ffmpeg_version_info,
    "libraries": {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()},
    "decoders": [name for name in ("h264", "hevc", "vp9", "aac", "opus") if has_codec(name, "r")],
    "encoders": [name for name in ("libx264", "aac") if has_codec(name, "w")],
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

_CODECS = {"decoders": ("h264", "hevc", "vp9", "aac", "opus"), "encoders": ("libx264", "aac")}
"""Usual codecs that PyAV should bring."""
_MALWARE = {"pytorch-lightning": ("2.6.2", "2.6.3"), "lightning": ("2.6.2", "2.6.3")}
_TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
_NEED_TORCH = (*_TORCH_FAMILY, "pytorch-lightning")
_Fault = tuple[Mark, str, str]
"""Mark, what is wrong, and what to do."""


def examine_installation(folder: Path) -> tuple[list[Check], dict[str, Outcome]]:
    """Packages, codecs and the decode test; `folder` is temporary."""
    checks, outcomes = check_packages(*installed())
    checks += check_codecs(outcomes.get("av", Outcome("not installed")))
    if not any(check.mark == "problem" for check in checks):
        checks.append(check_decoding(folder))
    return checks, outcomes


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
    names = [Requirement(line).name for line in required]
    missing = [
        name for name in PROBES if name not in names
    ]  # selavi was installed by an older setup.cfg, or not at all
    versions = {name: _version(name) for name in ["selavi", *names, *missing, "lightning"]}
    return required + missing, versions


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
    importable = [name for name in PROBES if versions.get(name) and not (malware and name == "pytorch-lightning")]
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(importable, pool.map(probe, [PROBES[name] for name in importable]), strict=True))
    checks = [_check_selavi(versions.get("selavi"))]
    checks += [_check_package(line, versions, outcomes, required) for line in required]
    if malware:
        advice = (
            "remove it now (python -m pip uninstall pytorch-lightning lightning), take this machine's passwords and "
            "tokens for stolen, then install selavi anew; doctor did not import it"
        )
        names = " and ".join(malware)
        checks.append(Check("packages", "malware", "problem", f"{names} carried malware (GHSA-w37p-236h-pfx3)", advice))
    return checks, outcomes


def _check_package(
    line: str, versions: Mapping[str, str | None], outcomes: Mapping[str, Outcome], required: Sequence[str]
) -> Check:
    """Check one requirement: its version, whether it fits torch, and whether it could be imported."""
    requirement = Requirement(line)
    name, version = requirement.name, versions.get(requirement.name)
    install = f"python -m pip install '{line}'"
    if version is None:
        return Check("packages", name, "problem", "not installed", install)
    outcome = outcomes.get(name, Outcome())
    faults: list[_Fault] = []
    if outcome.error:
        faults.append(("problem", _explain(name, outcomes), _repair(name, line, required)))
    verdict = compare(version, requirement.specifier)
    if verdict in ("too old", "excluded"):
        faults.append(("problem", f"{verdict}: selavi needs {requirement.specifier}", install))
    if verdict == "too new":
        faults.append(("warning", f"selavi was made for {requirement.specifier}", install))
    mixed = _mixed_builds(name, versions)
    if mixed:
        faults.append(("warning", mixed, _install_torch(required)))
    if name == "torch" and "cuda" in outcome.facts:
        version += f" (CUDA {outcome.facts['cuda']})" if outcome.facts["cuda"] else " (CPU only)"
    texts = [text for _, text, _ in faults]
    advice = faults[0][2] if faults else ""
    return Check("packages", name, worst([mark for mark, _, _ in faults]), "; ".join([version, *texts]), advice)


def check_codecs(av: Outcome) -> list[Check]:
    """FFmpeg's version, and which of the usual codecs PyAV brings."""
    if av.error:
        return []
    libraries = av.facts["libraries"]
    versions = f"{av.facts['ffmpeg']} (libavcodec {libraries['libavcodec']}, libswscale {libraries['libswscale']})"
    return [
        Check("media", "FFmpeg in av", "ok", versions),
        _check_kind(av, "decoders", "files with them count as corrupt or without sound"),
        _check_kind(av, "encoders", f"the demo set and {command('prepare')} --format files need them"),
    ]


def _check_kind(av: Outcome, kind: str, loss: str) -> Check:
    present = av.facts[kind]
    missing = [name for name in _CODECS[kind] if name not in present]
    if not missing:
        return Check("media", kind, "ok", ", ".join(present))
    advice = "the av of the package registry has them all: python -m pip install --force-reinstall av"
    return Check("media", kind, "warning", f"no {', no '.join(missing)}: {loss}", advice)


def check_decoding(folder: Path) -> Check:
    """Write a clip with a flash and a click at one moment, read it back, and compare the moments."""
    import numpy as np

    from selavi import media

    fps, rate, moment_s, start_s, clip_s = 25, 16_000, 1.0, 0.4, 1.2
    file = folder / "doctor.mp4"
    frames = np.full((2 * fps, 64, 64, 3), 30, np.uint8)
    frames[round(moment_s * fps) :][:3] = 220
    waveform = np.zeros(2 * rate, np.float32)
    waveform[round(moment_s * rate) :][:80] = 0.8 * np.sin(np.arange(80))
    name, advice = "decode test", "python -m pip install --force-reinstall 'av>=18.1'; if it stays, report it as a bug"
    try:
        media.encode_clip(file, frames, waveform, fps=fps, sample_rate=rate)
        seen, heard = media.decode_clip(file, start_s, clip_s, num_frames=30, size=64, offset=0.5, sample_rate=rate)
    except Exception as error:  # whatever PyAV, numpy or selavi raise is what doctor is here to report
        return Check("media", name, "problem", f"{type(error).__name__}: {error}", advice)
    if seen is None or heard is None or seen.mean((1, 2, 3)).max() < 120 or not np.abs(heard / 1.0).max():
        return Check("media", name, "problem", "the flash or the click is not in what was decoded", advice)
    flash_s = start_s + np.argmax(seen.mean((1, 2, 3)) > 120) * clip_s / 30
    level = np.abs(heard / 1.0)
    click_s = start_s + np.argmax(level > level.max() / 2) / rate
    moments = f"flash at {flash_s:.3f} s, click at {click_s:.3f} s, written at {moment_s:.3f} s"
    if abs(flash_s - moment_s) <= 1 / fps + 1e-6 and abs(click_s - moment_s) <= 0.01:
        return Check("media", name, "ok", moments)
    return Check("media", name, "problem", moments, advice)


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


def compare(version: str, limits: SpecifierSet) -> Literal["", "too old", "too new", "excluded"]:
    """Say on which side of its limits a version is; "" where it is within them or follows no rule of versions."""
    try:
        own = Version(version)
    except InvalidVersion:
        return ""
    broken = {limit.operator for limit in limits if not limit.contains(own, prereleases=True)}
    if broken & {">=", ">", "~="}:
        return "too old"
    if broken & {"<", "<="}:
        return "too new"
    return "excluded" if broken else ""


def _mixed_builds(name: str, versions: Mapping[str, str | None]) -> str:
    """What does not fit between torch and another package of its family, by the versions alone; "" where nothing."""
    torch_version, own_version = versions.get("torch"), versions.get(name)
    if not torch_version or not own_version or name not in ("torchvision", "torchaudio"):
        return ""
    if ("+cpu" in torch_version) != ("+cpu" in own_version):
        return (
            f"mixed builds: {name} {own_version} beside torch {torch_version}; "
            "a CPU-only build does not work with the others"
        )
    torch, own = Version(torch_version), Version(own_version)
    if name == "torchaudio":
        if torch.release >= (2, 15):
            return f"mixed builds: torchaudio {own_version} is built for CUDA 13.0, torch {torch_version} for 13.2"
        return ""
    expected = f"2.{own.minor - 15}"
    if f"{torch.major}.{torch.minor}" != expected:
        return f"mixed builds: torchvision {own_version} is made for torch {expected}, not {torch_version}"
    return ""


def _explain(name: str, outcomes: Mapping[str, Outcome]) -> str:
    """Why an import failed, in one line."""
    error = outcomes[name].error
    for other in _TORCH_FAMILY:
        needs_other = other in error or (other == "torch" and name in _NEED_TORCH)
        if name != other and needs_other and other in outcomes and outcomes[other].error:
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
    if name in _NEED_TORCH:
        return _install_torch(required)
    return f"python -m pip install --force-reinstall '{line}'"


def _install_torch(required: Sequence[str]) -> str:
    family = " ".join(f"'{line}'" for line in required if Requirement(line).name in _TORCH_FAMILY)
    return f"install the three together, all from the one registry: python -m pip install --force-reinstall {family}"
