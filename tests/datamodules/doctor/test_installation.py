from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from datamodules.doctor import installation
from datamodules.doctor.installation import check_codecs, check_decoding, check_packages, compare, run_probe
from datamodules.doctor.report import Check, Outcome
from selavi import media

REQUIRED = [
    "torch<2.15,>=2.11",
    "torchvision<0.30,>=0.26",
    "torchaudio<2.12,>=2.11",
    "pytorch-lightning!=2.6.2,!=2.6.3,<3,>=2.5",
    "av>=15.1",
]
GOOD = {
    "selavi": "0.1.0",
    "torch": "2.14.1",
    "torchvision": "0.29.2",
    "torchaudio": "2.11.0",
    "pytorch-lightning": "2.6.6",
    "av": "18.1.0",
    "lightning": None,
}
TORCH = {"cuda": "13.0", "gpus": [], "said": []}


def judge_packages(
    versions: Mapping[str, str | None] = {}, errors: Mapping[str, str] = {}
) -> tuple[dict[str, Check], list[str]]:
    """Checks by name, for GOOD with some versions changed and some imports failing; and what was imported."""
    tried = []

    def probe(code: str) -> Outcome:
        name = next(name for name, own in installation.PROBES.items() if own == code)
        tried.append(name)
        return Outcome(errors.get(name, ""), TORCH if name == "torch" else {})

    checks, _ = check_packages(REQUIRED, {**GOOD, **versions}, probe)
    return {check.name: check for check in checks}, tried


def test_a_good_installation_has_no_fault() -> None:
    checks, _ = judge_packages()
    assert {check.mark for check in checks.values()} == {"ok"}
    assert checks["torch"].finding == "2.14.1 (CUDA 13.0)"


def test_a_cpu_only_torch_beside_other_builds_is_named() -> None:
    nms = "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
    errors = {
        "torchvision": nms,
        "torchaudio": "Traceback\nOSError: libtorch_cuda.so: cannot open shared object file",
        "pytorch-lightning": f'File "site-packages/torchvision/__init__.py"\n{nms}',
    }
    checks, _ = judge_packages({"torch": "2.14.1+cpu"}, errors)
    assert checks["torchvision"].mark == "problem"
    assert "its compiled part does not fit this torch" in checks["torchvision"].finding
    assert "mixed builds: torchvision 0.29.2 beside torch 2.14.1+cpu" in checks["torchvision"].finding
    assert "built for another CUDA than this torch, or torch is CPU-only" in checks["torchaudio"].finding
    assert checks["pytorch-lightning"].finding.endswith("does not import because torchvision does not")
    assert "'torch<2.15,>=2.11' 'torchvision<0.30,>=0.26' 'torchaudio<2.12,>=2.11'" in checks["torchaudio"].advice


def test_torch_2_15_beside_torchaudio_2_11_is_named() -> None:
    error = "RuntimeError: PyTorch and TorchAudio were compiled with different CUDA versions."
    checks, _ = judge_packages({"torch": "2.15.0", "torchvision": "0.30.0"}, {"torchaudio": error})
    assert checks["torch"].mark == "warning"  # it works by itself
    assert checks["torchaudio"].mark == "problem"
    assert "torchaudio 2.11.0 is built for CUDA 13.0, torch 2.15.0 for 13.2" in checks["torchaudio"].finding


def test_a_torchvision_of_another_torch_is_named() -> None:
    checks, _ = judge_packages({"torchvision": "0.28.0"})
    assert "torchvision 0.28.0 is made for torch 2.13, not 2.14.1" in checks["torchvision"].finding


@pytest.mark.parametrize(("name", "version"), [("pytorch-lightning", "2.6.2"), ("lightning", "2.6.3")])
def test_malware_is_named_and_not_imported(name: str, version: str) -> None:
    checks, tried = judge_packages({name: version})
    assert checks["malware"].mark == "problem"
    assert f"{name} {version} carried malware" in checks["malware"].finding
    assert "pytorch-lightning" not in tried and "av" in tried


def test_old_and_missing_packages_are_problems() -> None:
    checks, tried = judge_packages({"av": "14.4.0", "torchaudio": None})
    assert (checks["av"].mark, checks["torchaudio"].mark) == ("problem", "problem")
    assert "too old: selavi needs >=15.1" in checks["av"].finding
    assert checks["torchaudio"].finding == "not installed" and "torchaudio" not in tried


@pytest.mark.parametrize(
    ("version", "limits", "verdict"),
    [
        ("2.13.0", ">=2.13.0", ""),
        ("2.13", ">=2.13.0", ""),  # the same version: comparing lists of numbers called it too old
        ("2.9", ">=2.13", "too old"),
        ("2.13.0rc1", ">=2.13.0", "too old"),
        ("2.14.1+cpu", ">=2.11,<2.15", ""),
        ("2.15.0", ">=2.11,<2.15", "too new"),
        ("2.6.2", ">=2.5,!=2.6.2,!=2.6.3,<3", "excluded"),
        ("2.6.4", ">=2.5,!=2.6.2,!=2.6.3,<3", ""),
        ("1.4.5", "~=1.4.6", "too old"),
        ("2.0", "==1.0", "excluded"),
        ("not a version", ">=1", ""),
        ("1.0", "", ""),
    ],
)
def test_versions_are_compared_as_pip_does(version: str, limits: str, verdict: str) -> None:
    assert compare(version, SpecifierSet(limits)) == verdict


def test_an_excluded_version_is_a_problem() -> None:
    checks, _ = check_packages(["numpy>=2.0,!=2.2.2"], {"numpy": "2.2.2", "selavi": "0.1.0"}, lambda _: Outcome())
    check = next(check for check in checks if check.name == "numpy")
    assert check.mark == "problem" and "excluded: selavi needs !=2.2.2,>=2.0" in check.finding


def test_an_import_that_kills_its_process_is_reported() -> None:
    killed = run_probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert "killed by signal 11" in killed.error
    assert "No module named 'no_such_package'" in run_probe("import no_such_package").error
    assert "more than 0 s" in run_probe("import time; time.sleep(60)", timeout_s=0.2).error
    assert run_probe("print('{\"a\": 1}')") == Outcome(facts={"a": 1})


def test_what_selavi_requires_is_read_from_its_metadata() -> None:
    required, versions = installation.installed()
    assert any(line.startswith("torch") and ">=2.11" in line for line in required)
    assert not any("pytest" in line for line in required)  # extras are no requirement
    assert versions["torch"] and versions["numba"]


def test_missing_decoders_are_warned_of() -> None:
    facts = {"ffmpeg": "8", "libraries": {"libavcodec": "62", "libswscale": "9"}, "encoders": ["libx264", "aac"]}
    checks = check_codecs(Outcome(facts={**facts, "decoders": ["h264", "hevc", "vp9"]}))
    assert [check.mark for check in checks] == ["ok", "warning", "ok"]
    assert "no aac, no opus" in checks[1].finding
    assert check_codecs(Outcome("av does not import")) == []


def test_the_decode_test_sees_sound_that_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_decoding(tmp_path).mark == "ok"
    decode = media.decode_clip

    def late(*args, **kwargs):
        frames, waveform = decode(*args, **kwargs)
        return frames, np.roll(waveform, 500)  # 31 ms at 16 kHz

    monkeypatch.setattr(media, "decode_clip", late)
    assert check_decoding(tmp_path).mark == "problem"
    monkeypatch.setattr(media, "decode_clip", lambda *args, **kwargs: (decode(*args, **kwargs)[0], None))
    assert "the flash or the click is not in what was decoded" in check_decoding(tmp_path).finding

    def broken(*args, **kwargs):
        raise media.MediaError(tmp_path, "corrupt", "no decoder for aac")

    monkeypatch.setattr(media, "decode_clip", broken)
    assert "no decoder for aac" in check_decoding(tmp_path).finding
