"""Every setting of a run, with its default, its meaning and its limits.  The only user of OmegaConf.

Precedence: the defaults here < the YAML file < `section.key=value` on the command line.  The defaults are the
published VGG-Sound recipe (docs name the departures from the official code).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from os.path import isfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from selavi.errors import UsageError
from selavi.filesystem import expand
from selavi.modalities import MODALITIES, in_order

PATHS = ("data.root", "data.list", "data.cache_dir", "run_dir", "encoders.init")
"""Settings that are paths, or URLs: ~ and ~name are home folders in them."""


SPEED_ONLY = frozenset(
    ("run_dir", "resume", "data.cache_dir", "data.cache_gb", "data.num_workers", "data.scan_workers")
)
"""Settings that say where things are and how fast they go, not what is computed."""

FREE_ON_RESUME = SPEED_ONLY | {
    "data.root",
    "data.demo",
    "data.max_bad_fraction",
    "data.timeout_s",
    "data.allow_links",
    "data.layout",  # which clips there are is compared by their ids
    "data.shard_cache_gb",
    "labelling.batch_size",
    "labelling.memory_gb",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.log_every_n_steps",
}
"""Settings that may differ when a run goes on: those, where the media are, what is tolerated, and how much memory is
taken.  The last ones change rounding errors at most."""


def _require(condition: bool, key: str, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"{key} must be {expected}, got {found}")


@dataclass
class DataConfig:
    """Where the media are and how clips are cut from them."""

    root: str = "data/media"
    """Folder of media: {root}/{split}/{class}/{file}, {root}/{class}/{file}, or files alone."""
    list: str = ""
    """An official list: only the clips it names are used, with its splits and labels; several files as a pattern."""
    source: Literal["auto", "vggsound", "kinetics", "kinetics_sounds", "ave", "ucf101", "hmdb51", "folder", "table"] = (
        "auto"
    )
    """Format of `list`; auto: by its content.  kinetics_sounds without a list: SeLaVi's 32 classes of the folders."""
    layout: Literal["auto", "classes", "splits", "flat"] = "auto"
    """What the folders below `root` mean.  classes: the first one is the class, all is split `train`; splits: the
    first one is the split, the second the class; flat: nothing, no clip has a label; auto: by their names, as told."""
    demo: bool = False
    """Generate the demo set in `root` where it is not there yet."""
    train_split: str = "train"
    """Name of the split that is trained on."""
    clip_s: float = 1.0
    """Seconds of a clip, sound and picture alike."""
    num_workers: int = 4
    """Loader processes; any number gives the same clips."""
    scan_workers: int = 0
    """Processes that probe and decode ahead of training; 0: one for each core."""
    cache_dir: str = ".selavi-cache"
    """Scans and decoded media are kept here between runs."""
    cache_gb: float = 0.0
    """Media are decoded once into a memory-mapped file if that needs at most this many GB; 0: decode each time."""
    shard_cache_gb: float = 20.0
    """Prepared shards of a URL are kept in `cache_dir` up to so many GB; the least recently used go first."""
    shuffle_shards: int = 16
    """Clips of a URL's shards are shuffled over about so many shards, which the shard cache should hold."""
    max_bad_fraction: float = 0.1
    """A larger share of unreadable files stops the run before training."""
    audio_policy: Literal["require", "mask", "zeros"] = "mask"
    """Clips without sound or silent, where `audio` is a modality.  require: not used; mask: used without their sound,
    which neither trains nor votes; zeros: used, and their sound is zeros."""
    timeout_s: float = 30.0
    """Seconds of processor time that one clip may take to decode, or a file to probe; on the clock 20 times as many."""
    allow_links: bool = False
    """Follow links that lead out of `root`; else they are refused."""

    def __post_init__(self) -> None:
        if not self.list and self.source not in ("auto", "folder", "kinetics_sounds"):
            raise ValueError(f"data.source={self.source} needs a list: set data.list to its file")
        _require(0.04 <= self.clip_s <= 600, "data.clip_s", "0.04 to 600 seconds", self.clip_s)
        _require(self.num_workers >= 0, "data.num_workers", "0 or more", self.num_workers)
        _require(self.scan_workers >= 0, "data.scan_workers", "0 or more", self.scan_workers)
        _require(self.cache_gb >= 0, "data.cache_gb", "0 or more", self.cache_gb)
        _require(self.shard_cache_gb >= 0, "data.shard_cache_gb", "0 or more", self.shard_cache_gb)
        _require(self.shuffle_shards >= 1, "data.shuffle_shards", "at least 1", self.shuffle_shards)
        _require(0 <= self.max_bad_fraction <= 1, "data.max_bad_fraction", "in [0, 1]", self.max_bad_fraction)
        _require(self.timeout_s > 0, "data.timeout_s", "above 0", self.timeout_s)


@dataclass
class VideoConfig:
    """Frames of a clip and their augmentation."""

    num_frames: int = 30
    """Frames of a clip, evenly spaced over `data.clip_s`."""
    decode_size: int = 144
    """Side of the decoded square, in pixels: the short side is resized to it, the long side cropped."""
    size: int = 112
    """Side of the crop that the encoder sees."""
    crop_fraction: tuple[float, float] = (0.7, 0.875)
    """Side of the random training crop as a share of the decoded square: 112 of 160 to 112 of 128 pixels."""
    flip: float = 0.5
    """Probability of a mirrored clip."""
    colour_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; the hue turns by up to a quarter of it."""
    greyscale: float = 0.0
    """Probability of a clip without colour."""
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Subtracted from red, green and blue, in [0, 1], before the encoder; released weights expect their own."""
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    """What the colours are divided by after that."""

    def __post_init__(self) -> None:
        low, high = self.crop_fraction
        _require(self.num_frames >= 1, "video.num_frames", "at least 1", self.num_frames)
        _require(16 <= self.size <= 1024, "video.size", "16 to 1024", self.size)
        _require(16 <= self.decode_size <= 1024, "video.decode_size", "16 to 1024", self.decode_size)
        _require(0 < low <= high <= 1, "video.crop_fraction", "0 < low <= high <= 1", self.crop_fraction)
        _require(0 <= self.flip <= 1, "video.flip", "in [0, 1]", self.flip)
        _require(0 <= self.colour_jitter < 1, "video.colour_jitter", "in [0, 1)", self.colour_jitter)
        _require(0 <= self.greyscale <= 1, "video.greyscale", "in [0, 1]", self.greyscale)
        _require(all(0 <= mean <= 1 for mean in self.mean), "video.mean", "three numbers in [0, 1]", self.mean)
        _require(all(std > 0 for std in self.std), "video.std", "three numbers above 0", self.std)


@dataclass
class AudioConfig:
    """Log-mel spectrogram of a clip and its augmentation."""

    sample_rate: int = 24000
    """Samples a second to which the sound is resampled, as mono."""
    num_mels: int = 257
    """Bands of the mel spectrogram."""
    num_fft: int = 1024
    """Length of the Fourier transform in samples, at least that of the window."""
    window_s: float = 0.02
    """Seconds of a window."""
    hop_s: float = 0.01
    """Seconds from one window to the next."""
    filter_bank: Literal["slaney", "psf"] = "slaney"
    """slaney: Slaney's mel filters on Hann windows of samples in [-1, 1]; psf: what the official weights were trained
    on, the filters of python_speech_features on pre-emphasised 16-bit samples, without a window."""
    standardise: Literal["clip", "none", "fixed"] = "clip"
    """clip: zero mean and unit variance over each spectrogram, so loudness does not count; none: as the original
    trains; fixed: less 1.93, over 17.89, as the original evaluates (sensible with psf only)."""
    volume_jitter: float = 0.1
    """Largest relative change of the amplitude."""
    shift_mel: float = 0.0
    """Largest shift along the mel axis, as a share of it: another pitch."""
    shift_time: float = 0.0
    """Largest shift along the time axis, as a share of it, wrapping around: when the sound begins then does not count,
    which matters where picture and sound share a moment more reliably than a meaning."""
    tone_jitter: float = 0.0
    """Strength of a smooth random filter over the mel axis, in nepers: another room or microphone."""
    mask_time: float = 0.0
    """Largest share of the time axis hidden by one mask (SpecAugment)."""
    mask_mel: float = 0.0
    """Largest share of the mel axis hidden by one mask (SpecAugment)."""

    def __post_init__(self) -> None:
        _require(self.sample_rate >= 1000, "audio.sample_rate", "at least 1000", self.sample_rate)
        _require(self.num_mels >= 8, "audio.num_mels", "at least 8", self.num_mels)
        _require(self.hop_s > 0, "audio.hop_s", "above 0", self.hop_s)
        _require(
            0 < self.window_s * self.sample_rate <= self.num_fft,
            "audio.window_s",
            f"above 0 and at most num_fft / sample_rate = {self.num_fft / self.sample_rate:.4f} s",
            self.window_s,
        )
        _require(
            self.standardise != "fixed" or self.filter_bank == "psf",
            "audio.standardise",
            "clip or none with audio.filter_bank=slaney (its figures belong to psf)",
            self.standardise,
        )
        _require(0 <= self.shift_time <= 1, "audio.shift_time", "in [0, 1]", self.shift_time)
        for key in ("volume_jitter", "shift_mel", "mask_time", "mask_mel"):
            _require(0 <= getattr(self, key) < 1, f"audio.{key}", "in [0, 1)", getattr(self, key))
        _require(self.tone_jitter >= 0, "audio.tone_jitter", "0 or more", self.tone_jitter)


@dataclass
class EncodersConfig:
    """R(2+1)D for video, ResNet for audio; features have 8 x width dimensions."""

    video_width: int = 64
    """Channels of the first stage; 64 is torchvision's R(2+1)D-18."""
    video_depth: Literal[10, 18] = 18
    """10 has one residual block a stage, 18 two."""
    audio_width: int = 64
    """Channels of the first stage; 64 is that of the original."""
    audio_depth: Literal[9, 18] = 9
    """ResNet-9 has one residual block a stage, ResNet-18 two."""
    video_layout: Literal["torchvision", "vmz"] = "torchvision"
    """torchvision: as its R(2+1)D-18; vmz: as XDC's weights, where the channels between the spatial and the temporal
    convolution follow from each pair's own input, and batch norm adds 0.001 to the variance."""
    init: str = ""
    """Start the encoders from these weights: a run, a folder of tools/convert.py, or a released file; empty: at
    random.  The heads always start at random."""

    def __post_init__(self) -> None:
        _require(self.video_width >= 4, "encoders.video_width", "at least 4", self.video_width)
        # At 4, oneDNN (torch 2.14.1) writes beyond its memory in the backward pass on some processors.
        _require(self.audio_width >= 8, "encoders.audio_width", "at least 8", self.audio_width)


@dataclass
class HeadsConfig:
    """Classifiers on the features, the same number and kind for each modality."""

    num_heads: int = 10
    """Independent clusterings that are learned at once; evaluation picks one without labels."""
    num_clusters: int = 309
    """K, the clusters of each head; at most the number of training clips."""
    kind: Literal["mlp", "linear"] = "mlp"
    """mlp: two layers, the hidden one as wide as the features; linear: one layer."""
    dropout: float = 0.3
    """Share of values dropped before each linear layer of an mlp head."""

    def __post_init__(self) -> None:
        _require(self.num_heads >= 1, "heads.num_heads", "at least 1", self.num_heads)
        _require(
            self.num_clusters >= 2,
            "heads.num_clusters",
            "at least 2 (one cluster would hold every clip)",
            self.num_clusters,
        )
        _require(0 <= self.dropout < 1, "heads.dropout", "in [0, 1)", self.dropout)


@dataclass
class LabellingConfig:
    """When clips are labelled and how (SeLaVi, sections 3.1 to 3.3)."""

    source: Literal["joint", "own", "cross", "concat"] = "joint"
    """What labels come from.  joint: all modalities' heads together (SeLaVi; of one modality, SeLa); own: each
    modality labels itself; cross: each is labelled by the other (XDC); concat: the concatenated features.  Under own
    and cross every modality has labels of its own, and heads are numbered through: those of video, then of audio."""
    method: Literal["transport", "kmeans"] = "transport"
    """transport: the heads' probabilities, with given cluster sizes; kmeans: K-means on the encoders' features, each
    standardised, of length 1 a clip and modality (DeepCluster, XDC); cluster sizes are free and clips of small
    clusters weigh more in the loss.  The settings of sizes, sharpness and tolerance belong to transport."""
    num_labellings: int = 100
    """Points of the schedule; the last one falls on the end of training."""
    power: float = 1.5
    """The i-th of n labellings happens after a share (i / (n - 1)) ** power of all steps."""
    sharpness: float = 20.0
    """The plan is proportional to exp(sharpness * weighted mean log-probability)."""
    tol: float = 1e-6
    """Largest L1 distance between the soft cluster masses and the marginal."""
    marginal: Any = "gaussian"
    """Cluster sizes: uniform, gaussian, zipf, estimated (the soft masses before each labelling, smoothed), or a list
    with one positive share for each cluster."""
    marginal_order: Literal["aligned", "inverse", "none"] = "aligned"
    """aligned: large targets go to the clusters that are large now; inverse: what the official code does."""
    gaussian_sd: float = 0.1
    """Deviation of the gaussian cluster sizes, relative to their mean."""
    zipf_exponent: float = 1.0
    """The r-th largest zipf cluster takes a share proportional to r ** -zipf_exponent."""
    estimate_smoothing: float = 0.5
    """Share of equal sizes in the estimated ones."""
    size_strength: float = 0.0
    """0: the sizes are met exactly; else they may float, held by this weight on KL(sizes || marginal) (P2OT)."""
    fraction: float = 1.0
    """Share of the clips that the first labelling labels, the most confident; it grows to 1 (P2OT)."""
    memory_gb: float = 8.0
    """Memory for the scores of one head; over it they are kept in float16, and over twice as much computed anew for
    each pass, which is slower."""
    head_groups: int = 2
    """Heads are split anew at each labelling; each group is labelled from its own augmented view of every clip."""
    weights: dict[str, float] = field(default_factory=lambda: {"video": 1.0, "audio": 1.0})
    """Weight of each modality's log-probabilities."""
    align_modalities: bool = True
    """Permute the audio heads to agree with the video heads before the first labelling, where they vote together."""
    batch_size: int = 64
    """Clips encoded at once, on one device, where no gradient is needed."""
    warmup_batches: int = 20
    """Batches that only update the batch-norm statistics, before the first labelling."""

    def __post_init__(self) -> None:
        _require(self.num_labellings >= 2, "labelling.num_labellings", "at least 2", self.num_labellings)
        _require(self.power > 0, "labelling.power", "above 0", self.power)
        _require(self.sharpness > 0, "labelling.sharpness", "above 0", self.sharpness)
        _require(0 < self.tol < 2, "labelling.tol", "in (0, 2)", self.tol)
        _require(0 <= self.gaussian_sd < 1, "labelling.gaussian_sd", "in [0, 1)", self.gaussian_sd)
        _require(self.zipf_exponent >= 0, "labelling.zipf_exponent", "0 or more", self.zipf_exponent)
        _require(0 < self.estimate_smoothing <= 1, "labelling.estimate_smoothing", "in (0, 1]", self.estimate_smoothing)
        _require(self.size_strength >= 0, "labelling.size_strength", "0 or more", self.size_strength)
        _require(0 < self.fraction <= 1, "labelling.fraction", "in (0, 1]", self.fraction)
        _require(self.memory_gb > 0, "labelling.memory_gb", "above 0", self.memory_gb)
        _require(self.head_groups >= 1, "labelling.head_groups", "at least 1", self.head_groups)
        _require(self.batch_size >= 1, "labelling.batch_size", "at least 1", self.batch_size)
        _require(self.warmup_batches >= 0, "labelling.warmup_batches", "0 or more", self.warmup_batches)
        unknown = set(self.weights) - set(MODALITIES)
        _require(not unknown, "labelling.weights", f"a weight for each of {(*MODALITIES,)}", self.weights)
        _require(
            all(weight > 0 for weight in self.weights.values()),
            "labelling.weights",
            "above 0 (leave a modality out with modalities=[...])",
            self.weights,
        )
        if self.method == "kmeans":
            for key, plain in (("size_strength", 0.0), ("fraction", 1.0)):
                found = getattr(self, key)
                _require(found == plain, f"labelling.{key}", f"{plain:g} with labelling.method=kmeans", found)
        if isinstance(self.marginal, list):
            positive = all(isinstance(share, int | float) and 0 < share < math.inf for share in self.marginal)
            _require(positive, "labelling.marginal", "a list of positive shares", self.marginal)
        else:
            kinds = ("uniform", "gaussian", "zipf", "estimated")
            _require(self.marginal in kinds, "labelling.marginal", f"one of {kinds} or a list", self.marginal)


@dataclass
class OptimConfig:
    """SGD; the learning rate grows with the number of clips in a step."""

    batch_size: int = 16
    """Clips a step on one device."""
    lr: float = 0.01
    """Learning rate for a step of `lr_clips` clips; a step of n clips uses lr * n / lr_clips."""
    lr_clips: int = 16
    """Clips of a step that `lr` is meant for."""
    warmup_lr: float = 0.01
    """Where the linear warm-up starts; with one device of `lr_clips` clips the rate is constant."""
    warmup_epochs: float = 10.0
    """Epochs over which the rate rises from `warmup_lr` to its target."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up: cosine falls to 0 at the last step."""
    momentum: float = 0.9
    """Of SGD, without Nesterov."""
    weight_decay: float = 1e-5
    """Of every parameter."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 2, "optim.batch_size", "at least 2 (batch norm)", self.batch_size)
        _require(self.lr > 0, "optim.lr", "above 0", self.lr)
        _require(self.lr_clips >= 1, "optim.lr_clips", "at least 1", self.lr_clips)
        for key in ("warmup_lr", "warmup_epochs", "weight_decay"):
            _require(getattr(self, key) >= 0, f"optim.{key}", "0 or more", getattr(self, key))
        _require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)


@dataclass
class TrainerConfig:
    """Handed to pytorch_lightning.Trainer under the same names."""

    max_epochs: int = 200
    """Passes over the training clips; the schedules of labels and rate span all of them."""
    accelerator: str = "auto"
    """cpu, gpu, or auto: a GPU where there is one."""
    devices: Any = "auto"
    """How many of them on each machine, or a list of their numbers."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """How several devices work together, such as ddp."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """32-true: float32; bf16-mixed: bfloat16 where it is safe, faster on recent GPUs."""
    gradient_clip_val: float | None = None
    """Largest norm of the gradient; null: no limit."""
    sync_batchnorm: bool = True
    """Batch-norm statistics over all devices."""
    log_every_n_steps: int = 10
    """Steps from one line of metrics.csv to the next."""

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "trainer.max_epochs", "at least 1", self.max_epochs)
        _require(self.num_nodes >= 1, "trainer.num_nodes", "at least 1", self.num_nodes)
        clip = self.gradient_clip_val
        _require(clip is None or clip > 0, "trainer.gradient_clip_val", "above 0, or null for no clipping", clip)


@dataclass
class FinetuneConfig:
    """Training one encoder of a finished run on labels (tools/finetune.py); the defaults are the published protocol.

    An epoch sees one window of each clip.  The published 12 epochs of 10 windows each are 120 of these.
    """

    modality: Literal["video", "audio"] = "video"
    """Whose encoder is trained."""
    start: Literal["run", "random"] = "run"
    """run: from the run's weights; random: the same encoder from new ones, which the run's have to beat."""
    encoder_lr: float = 0.1
    """Learning rate of the encoder as a share of `optim.lr`, which is the classifier's."""
    milestones: list[int] = field(default_factory=lambda: [60, 100])
    """After so many epochs the rate is multiplied by `gamma`."""
    gamma: float = 0.05
    """See `milestones`."""
    validation_fraction: float = 0.1
    """Share of the training clips of each class that is not trained on but chooses the best epoch."""
    group: str = ""
    """What keeps clips of one recording on one side: ucf101, hmdb51, or a regular expression that matches the part of
    a clip's id which they share; empty: nothing."""
    validation_every: int = 10
    """Epochs from one validation to the next; the last epoch is always validated."""
    validation_views: int = 3
    """Evenly spaced views of a clip whose logits are averaged in validation."""
    test_views: int = 10
    """The same for the test clips."""
    test_crops: Literal[1, 3] = 3
    """Squares of each test view: 1, the middle; 3, also both ends of the long side."""

    def __post_init__(self) -> None:
        _require(self.encoder_lr >= 0, "finetune.encoder_lr", "0 or more", self.encoder_lr)
        _require(self.gamma > 0, "finetune.gamma", "above 0", self.gamma)
        _require(
            all(epoch >= 1 for epoch in self.milestones), "finetune.milestones", "numbers of epochs", self.milestones
        )
        _require(
            0 < self.validation_fraction < 1,
            "finetune.validation_fraction",
            "above 0 and below 1",
            self.validation_fraction,
        )
        for key in ("validation_every", "validation_views", "test_views"):
            _require(getattr(self, key) >= 1, f"finetune.{key}", "at least 1", getattr(self, key))


@dataclass
class Config:
    """A whole run."""

    seed: int = 0
    """Of everything random; equal seeds give equal labels."""
    run_dir: str = ""
    """Where everything of this run goes; empty: runs/NAME for a configuration file NAME.yaml."""
    resume: Literal["never", "auto", "must"] = "never"
    """never: refuse an existing run folder; auto: go on where it stopped, or start; must: go on or fail."""
    modalities: list[str] = field(default_factory=lambda: ["video", "audio"])
    """[video, audio] is SeLaVi; one alone is SeLa on that modality.  Other recipes: labelling.source and method."""
    data: DataConfig = field(default_factory=DataConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    labelling: LabellingConfig = field(default_factory=LabellingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        self.modalities = in_order(self.modalities)
        for name in self.modalities:
            self.labelling.weights.setdefault(name, 1.0)
        _require(
            self.labelling.head_groups <= self.heads.num_heads,
            "labelling.head_groups",
            f"at most heads.num_heads = {self.heads.num_heads}",
            self.labelling.head_groups,
        )
        self._check_source()
        if isinstance(self.labelling.marginal, list):
            _require(
                len(self.labelling.marginal) == self.heads.num_clusters,
                "labelling.marginal",
                f"a list of heads.num_clusters = {self.heads.num_clusters} shares",
                f"{len(self.labelling.marginal)} shares",
            )
        for section, key, number in _numbers(self):
            _require(math.isfinite(number), f"{section}{key}", "a finite number", number)

    def _check_source(self) -> None:
        source, method = self.labelling.source, self.labelling.method
        if len(self.modalities) == 1:
            known = "joint or own with one modality, which has no other to learn from or to be joined with"
            _require(source in ("joint", "own"), "labelling.source", known, source)
        elif method == "kmeans":
            known = "concat (K-means on all features together), own or cross with labelling.method=kmeans"
            _require(source != "joint", "labelling.source", known, source)

    @property
    def branches(self) -> list[str]:
        """What has heads of its own: each modality, or `concat` where heads read the concatenated features."""
        fused = self.labelling.source == "concat" and self.labelling.method == "transport"
        return ["concat"] if fused else self.modalities

    @property
    def voters(self) -> list[list[str]]:
        """The branches whose heads decide together, a list for each set of labels.

        One set that serves all branches, or under own and cross one for each modality.  The label bank has the
        heads of the first set, then those of the second.
        """
        separate = self.labelling.source in ("own", "cross")
        return [[name] for name in self.branches] if separate else [self.branches]

    @property
    def num_label_heads(self) -> int:
        """Columns of the label bank: `heads.num_heads` for each set of labels."""
        return len(self.voters) * self.heads.num_heads

    @property
    def branch_weights(self) -> dict[str, float]:
        """Weight of each branch's vote."""
        return {name: self.labelling.weights.get(name, 1.0) for name in self.branches}

    @property
    def plan_sharpness(self) -> float:
        """Exponent on the scores in the rows that tell how sure a label is; K-means has no plan: 1."""
        return self.labelling.sharpness if self.labelling.method == "transport" else 1.0


def find_config(path: Path, shipped: Path) -> Path:
    """A configuration file as named, or one of selavi's own by its name or by configs/NAME.yaml from anywhere.

    Raises:
        UsageError: there is no such file; the message lists selavi's own.
    """
    for candidate in (path, shipped / path.name, shipped / f"{path.name}.yaml"):
        if isfile(candidate):
            return candidate
    own = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
    raise UsageError(f"no configuration file {path}; give a path, or one of selavi's own: {own}")


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Merge defaults, a YAML file and `section.key=value` overrides.

    Settings that are text (paths, names, words) are taken as they are written, from the first `=` on; the others are
    read as YAML.  `${...}` refers to another setting in a file, and means nothing on the command line.

    Raises:
        UsageError: unreadable file, unknown key (the message names the nearest one), wrong type or value.
    """
    for override in overrides:
        if "=" not in override:
            raise UsageError(
                f"expected section.key=value, got {override!r}; a path with blanks stands in quotes: "
                'data.root="/my videos"'
            )
    texts, others = _split_overrides(overrides)
    try:
        layers = [OmegaConf.structured(Config)]
        if path is not None:
            loaded = OmegaConf.load(path)
            if not OmegaConf.is_dict(loaded):
                raise UsageError(f"{path}: expected `section:` and `key: value` lines, found a list or text")
            texts = {**_texts_of_file(path), **texts}
            layers.append(loaded)
        layers.append(OmegaConf.from_dotlist(others))
        for layer in layers[1:]:
            _check_kinds(OmegaConf.to_container(layer), Config)
        for key, text in texts.items():
            # ??? alone would be a missing value; all texts are set once more, as they are, when all is merged.
            OmegaConf.update(layers[-1], key, "?" if text == "???" else _escape(text))
        merged = OmegaConf.merge(*layers)
        if not OmegaConf.select(merged, "run_dir"):
            texts["run_dir"] = merged.run_dir = f"runs/{path.stem}" if path is not None else "runs/run"
        config = OmegaConf.to_object(merged)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise UsageError(_explain(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    assert isinstance(config, Config)
    for key, text in texts.items():
        section, _, name = key.rpartition(".")
        setattr(getattr(config, section) if section else config, name, expand(text) if key in PATHS else text)
    return config


def load_run_config(folder: Path) -> Config:
    """The settings of a run, which lies in `folder` now, whatever it was called when it was trained.

    Raises:
        UsageError: the folder is not a run; or as load_config.
    """
    path = folder / "config.resolved.yaml"
    if not path.exists():
        raise UsageError(
            f"{folder} is not a run folder: it has no config.resolved.yaml; "
            "give the folder that tools/train.py named at its end"
        )
    config = load_config(path)
    config.run_dir = str(folder)
    return config


def save_config(config: Config, path: Path) -> None:
    """Write every setting as YAML; load_config reads it back to an equal Config."""
    from selavi.atomic import write_text

    write_text(path, OmegaConf.to_yaml(OmegaConf.create(_plain(config, _escape))))


def as_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain nested dicts and lists, fit for a checkpoint."""
    plain = _plain(config, str)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any, write: Callable[[str], str]) -> Any:
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name), write) for entry in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry, write) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, write) for entry in value]
    return write(value) if isinstance(value, str) else value


def _split_overrides(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The settings that are text, by key and as they are written, and the other overrides."""
    keys = _text_keys(Config)
    texts, others = {}, []
    for override in overrides:
        key, _, text = override.partition("=")
        if key not in keys:
            others.append(override)
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{key}={text!a} is not UTF-8; rename the file or folder") from error
        texts[key] = text
    return texts, others


def _texts_of_file(path: Path) -> dict[str, str]:
    """The settings of a YAML file that are text, as they are written: 007, 1e3 and on are names as well.

    Not those with `${`, which may refer to others, and those that are null.
    """
    with path.open(encoding="utf-8") as file:
        root = yaml.compose(file, Loader=yaml.SafeLoader)
    keys = _text_keys(Config)
    return {
        key: node.value
        for key, node in _scalars(root)
        if key in keys and "${" not in node.value and not node.tag.endswith(":null")
    }


def _scalars(mapping: Any, prefix: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    for name, node in mapping.value if isinstance(mapping, yaml.MappingNode) else ():
        if isinstance(node, yaml.ScalarNode):
            yield f"{prefix}{name.value}", node
        elif not prefix:
            yield from _scalars(node, f"{name.value}.")


def _text_keys(section: type, prefix: str = "") -> set[str]:
    """Settings that hold text and nothing else: str, and words of a Literal."""
    keys = set()
    for entry in fields(section):
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            keys |= _text_keys(entry.type, f"{prefix}{entry.name}.")
        elif entry.type is str or (get_origin(entry.type) is Literal and isinstance(get_args(entry.type)[0], str)):
            keys.add(prefix + entry.name)
    return keys


def _escape(text: str) -> str:
    """A text as OmegaConf has to read it so that nothing in it refers to another setting."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _explain(error: OmegaConfBaseException) -> str:
    """What OmegaConf found, in one line; for an unknown key the settings that could be meant."""
    full_key = str(error.full_key or "")
    if not isinstance(error, ConfigKeyError):
        return str(error).splitlines()[0] + (f" (setting {full_key})" if full_key else "")
    leaf = str(error.key)
    section, prefix = (error.object_type or Config), full_key[: len(full_key) - len(leaf)]
    names = [entry.name for entry in fields(section)]
    homes: dict[str, list[str]] = {name: [prefix + name] for name in names}
    for home in _all_keys(Config):
        if home.split(".")[-1] not in names:
            homes.setdefault(home.split(".")[-1], []).append(home)
    near = get_close_matches(leaf, homes, 1, cutoff=0.7)
    if "." in leaf:
        known = f"in a file the part before the dot is a section: `{leaf.split('.')[0]}:` and its settings indented"
    elif near:
        known = f"did you mean {' or '.join(homes[near[0]])}?"
    else:
        known = f"{prefix.rstrip('.') or 'a configuration'} has {', '.join(names)}"
    return f"unknown setting {full_key or '(no name)'}; {known}"


def _check_kinds(layer: Any, section: type, prefix: str = "") -> None:
    """Refuse what OmegaConf would convert in silence or name no key for: sections, lists, mappings and booleans."""
    for entry in fields(section):
        if entry.name not in layer:
            continue
        key, value = prefix + entry.name, layer[entry.name]
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            example = f"{key}.{fields(entry.type)[0].name}"
            _require(isinstance(value, dict), key, f"a section of settings such as {example}", repr(value))
            _check_kinds(value, entry.type, f"{key}.")
            continue
        origin = get_origin(entry.type) or entry.type
        if origin in (list, tuple):
            count = len(get_args(entry.type)) if origin is tuple else None
            fits = isinstance(value, list) and count in (None, len(value))
            if origin is tuple:
                fits = fits and all(isinstance(number, int | float) for number in value)
            _require(fits, key, f"a list of {count} numbers" if count else "a list such as [a, b]", repr(value))
        elif origin is dict:
            _require(isinstance(value, dict), key, "a mapping such as {a: 1, b: 2}", repr(value))
        elif origin is bool:
            _require(isinstance(value, bool), key, "true or false", repr(value))


def _all_keys(section: type, prefix: str = "") -> list[str]:
    keys = []
    for entry in fields(section):
        keys.append(prefix + entry.name)
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            keys += _all_keys(entry.type, f"{prefix}{entry.name}.")
    return keys


def _numbers(section: Any, prefix: str = "") -> list[tuple[str, str, float]]:
    found = []
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            found += _numbers(value, f"{prefix}{entry.name}.")
        elif isinstance(value, float):
            found.append((prefix, entry.name, value))
    return found
