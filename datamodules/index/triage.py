"""What a scan found, for a person to read: how many files are usable, and what to do about the others."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import STATUSES, probed
from selavi.runs.manifest import media_root
from selavi.wording import duration

EXAMPLES = 5


class StatusAdvice(NamedTuple):
    """What a status means and what can be done about it."""

    means: str
    to_do: str


ADVICE: dict[str, StatusAdvice] = {
    "silent": StatusAdvice(
        "the sound track is silent", "nothing, or audio_policy=mask to use the pictures, zeros to train on silence"
    ),
    "no_audio": StatusAdvice(
        "there is no sound track", "nothing, or audio_policy=mask to use the pictures, zeros to train on silence"
    ),
    "bad_audio": StatusAdvice(
        "the picture is good, the sound cannot be decoded",
        "download or copy them again, or audio_policy=mask to use the pictures",
    ),
    "no_video": StatusAdvice(
        "there is sound, but no picture", "train on the sound, with modalities=[audio], or remove them"
    ),
    "double": StatusAdvice("the same recording as another file", "nothing, or data.doubles=keep to use all of them"),
    "too_short": StatusAdvice("shorter than a clip", "a smaller data.clip_s, or nothing: they are left out"),
    "corrupt": StatusAdvice(
        "opens, but cannot be decoded, or kills its decoder",
        "download or copy them again; see whether `ffmpeg -v error -i FILE -f null -` agrees",
    ),
    "not_media": StatusAdvice(
        "no known media format",
        "look into one: an error page, a pointer file of git-lfs or half a download; fetch anew",
    ),
    "empty": StatusAdvice(
        "0 bytes", "download or copy them again: a full disk or a download that broke off leaves such"
    ),
    "refused": StatusAdvice(
        "not opened, or not beyond its header: unsafe or outside of the limits",
        "see the reason of each; links are allowed with --allow-links (data.allow_links=true)",
    ),
    "timeout": StatusAdvice(
        "took too long to read",
        "scan again, with a longer --timeout-s where the disk is slow (they are tried anew each time), or remove them",
    ),
    "vanished": StatusAdvice("listed, but then not there", "scan again; mend or remove links that lead nowhere"),
    "changed": StatusAdvice("written to while it was read", "scan again when downloads or copies have ended"),
    "unreadable": StatusAdvice(
        "there, but not given: permission, disk, network or memory",
        "mend what the reason names and scan again: such files are tried anew each time",
    ),
}


def triage(manifest: pa.Table, *, clip_s: float, audio_policy: str, sentences: tuple[str, ...] = ()) -> str:
    """Describe a judged manifest in Markdown that reads well on a terminal.

    Args:
        manifest: all files, judged.
        clip_s: that it was judged for; 0 of still pictures.
        audio_policy: that it was judged for.
        sentences: more of them for the head, such as what a list was taken for.
    """
    entries = pc.value_counts(manifest["status"]).to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in entries}
    lines = [
        f"# Triage of {_printable(str(media_root(manifest)))}",
        "",
        f"{len(manifest):,} files, "
        + (f"for clips of {clip_s:g} s and audio_policy={audio_policy}." if clip_s else "read as still pictures."),
        *(line for line in sentences if line),
        "",
        "| status | files | share | means |",
        "|---|--:|--:|---|",
    ]
    for status in STATUSES:
        if status in counts:
            means = "usable" if status == "ok" else ADVICE[status].means
            share = f"{counts[status] / len(manifest):.1%}"
            lines.append(f"| {status:<9} | {counts[status]:>9,} | {share:>6} | {means} |")
    lines += ["", *_usable(manifest.filter(pc.equal(manifest["status"], "ok")))]
    for status in STATUSES[1:]:
        if status in counts:
            rows = manifest.filter(pc.equal(manifest["status"], status))
            lines += ["", f"## {status}: {counts[status]:,}", "", f"To do: {ADVICE[status].to_do}.", ""]
            for path, reason in zip(*(rows[name][:EXAMPLES].to_pylist() for name in ("path", "reason")), strict=True):
                lines.append(f"- {_printable(path)}: {_printable(reason or '')}")
            if len(rows) > EXAMPLES:
                lines.append(f"- and {len(rows) - EXAMPLES:,} more: the rows of the manifest with status {status}")
    return "\n".join(lines) + "\n"


def advise(broken: pa.Table) -> str:
    """What to do about the commonest fault among the unusable files, in a sentence; empty where there are none."""
    counts = pc.value_counts(broken["status"]).to_pylist()
    if not counts:
        return ""
    status = max(counts, key=lambda entry: (entry["counts"], entry["values"]))["values"]
    advice = f"What to do about {status} ({ADVICE[status].means}): {ADVICE[status].to_do}"
    if status == "too_short":
        durations_s = broken.filter(pc.equal(broken["status"], status))["duration_s"].to_numpy()
        durations_s = durations_s[~np.isnan(durations_s.astype(float))]
        if durations_s.size:
            advice += f" (half of them last {np.median(durations_s):.3g} s or more)"
    return f"{advice}."


def _usable(rows: pa.Table) -> list[str]:
    if not len(rows):
        return ["No file can be used."]
    seconds = pc.sum(probed(rows)["duration_s"]).as_py() or 0.0
    sound = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["audio_state"]).to_pylist()}
    splits = sorted((e["values"], e["counts"]) for e in pc.value_counts(rows["split"]).to_pylist())
    shorter = np.minimum(rows["width"].to_numpy(), rows["height"].to_numpy())
    labels = pc.count_distinct(rows["label"]).as_py()
    still = pc.all(pc.equal(rows["timing"], "still")).as_py()
    usable = f"{len(rows):,} pictures" if still else duration(seconds)
    heard = [
        f"Sound: {sound.get('ok', 0):,} with sound, {sound.get('silent', 0):,} silent, "
        f"{sound.get('absent', 0):,} without a sound track, {sound.get('broken', 0):,} that cannot be decoded."
    ]
    return [
        f"Usable: {usable}; splits {', '.join(f'{name} {count:,}' for name, count in splits)}; "
        f"{labels:,} labels, {rows['label'].null_count:,} files without one.",
        *([] if still else heard),
        *_timing(rows),
        f"Picture: the short side has {np.median(shorter):.0f} pixels in the middle, {shorter.min()} at least.",
    ]


def _timing(rows: pa.Table) -> list[str]:
    """What was made of times that files do not have, or have wrong."""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["timing"]).to_pylist()}
    lines = []
    for timing, words in (
        (
            "counted",
            "have no presentation times, or wrong ones: their frames are counted, at the rate of the container",
        ),
        (
            "bridged",
            "have a clock that jumps, as joined recordings have: what follows a jump continues what was before",
        ),
    ):
        if timing in counts:
            example = rows.filter(pc.equal(rows["timing"], timing))["path"][0].as_py()
            lines.append(f"Times: {counts[timing]:,} files {words} (such as {_printable(example)}).")
    return lines


def _printable(text: str) -> str:
    """Names come from strangers: no control character reaches a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
