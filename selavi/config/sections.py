"""Every setting of a run, with its default, its meaning and its limits.

The defaults are the published VGG-Sound recipe (docs name the departures from the official code).
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from selavi.config.settings import numbers, require
from selavi.modalities import MODALITIES, in_order


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
        require(0.04 <= self.clip_s <= 600, "data.clip_s", "0.04 to 600 seconds", self.clip_s)
        require(self.num_workers >= 0, "data.num_workers", "0 or more", self.num_workers)
        require(self.scan_workers >= 0, "data.scan_workers", "0 or more", self.scan_workers)
        require(self.cache_gb >= 0, "data.cache_gb", "0 or more", self.cache_gb)
        require(self.shard_cache_gb >= 0, "data.shard_cache_gb", "0 or more", self.shard_cache_gb)
        require(self.shuffle_shards >= 1, "data.shuffle_shards", "at least 1", self.shuffle_shards)
        require(0 <= self.max_bad_fraction <= 1, "data.max_bad_fraction", "in [0, 1]", self.max_bad_fraction)
        require(self.timeout_s > 0, "data.timeout_s", "above 0", self.timeout_s)


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
        require(self.num_frames >= 1, "video.num_frames", "at least 1", self.num_frames)
        require(16 <= self.size <= 1024, "video.size", "16 to 1024", self.size)
        require(16 <= self.decode_size <= 1024, "video.decode_size", "16 to 1024", self.decode_size)
        require(0 < low <= high <= 1, "video.crop_fraction", "0 < low <= high <= 1", self.crop_fraction)
        require(0 <= self.flip <= 1, "video.flip", "in [0, 1]", self.flip)
        require(0 <= self.colour_jitter < 1, "video.colour_jitter", "in [0, 1)", self.colour_jitter)
        require(0 <= self.greyscale <= 1, "video.greyscale", "in [0, 1]", self.greyscale)
        require(all(0 <= mean <= 1 for mean in self.mean), "video.mean", "three numbers in [0, 1]", self.mean)
        require(all(std > 0 for std in self.std), "video.std", "three numbers above 0", self.std)


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
        require(self.sample_rate >= 1000, "audio.sample_rate", "at least 1000", self.sample_rate)
        require(self.num_mels >= 8, "audio.num_mels", "at least 8", self.num_mels)
        require(self.hop_s > 0, "audio.hop_s", "above 0", self.hop_s)
        require(
            0 < self.window_s * self.sample_rate <= self.num_fft,
            "audio.window_s",
            f"above 0 and at most num_fft / sample_rate = {self.num_fft / self.sample_rate:.4f} s",
            self.window_s,
        )
        require(
            self.standardise != "fixed" or self.filter_bank == "psf",
            "audio.standardise",
            "clip or none with audio.filter_bank=slaney (its figures belong to psf)",
            self.standardise,
        )
        require(0 <= self.shift_time <= 1, "audio.shift_time", "in [0, 1]", self.shift_time)
        for key in ("volume_jitter", "shift_mel", "mask_time", "mask_mel"):
            require(0 <= getattr(self, key) < 1, f"audio.{key}", "in [0, 1)", getattr(self, key))
        require(self.tone_jitter >= 0, "audio.tone_jitter", "0 or more", self.tone_jitter)


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
        require(self.video_width >= 4, "encoders.video_width", "at least 4", self.video_width)
        # At 4, oneDNN (torch 2.14.1) writes beyond its memory in the backward pass on some processors.
        require(self.audio_width >= 8, "encoders.audio_width", "at least 8", self.audio_width)


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
        require(self.num_heads >= 1, "heads.num_heads", "at least 1", self.num_heads)
        require(
            self.num_clusters >= 2,
            "heads.num_clusters",
            "at least 2 (one cluster would hold every clip)",
            self.num_clusters,
        )
        require(0 <= self.dropout < 1, "heads.dropout", "in [0, 1)", self.dropout)


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
        require(self.num_labellings >= 2, "labelling.num_labellings", "at least 2", self.num_labellings)
        require(self.power > 0, "labelling.power", "above 0", self.power)
        require(self.sharpness > 0, "labelling.sharpness", "above 0", self.sharpness)
        require(0 < self.tol < 2, "labelling.tol", "in (0, 2)", self.tol)
        require(0 <= self.gaussian_sd < 1, "labelling.gaussian_sd", "in [0, 1)", self.gaussian_sd)
        require(self.zipf_exponent >= 0, "labelling.zipf_exponent", "0 or more", self.zipf_exponent)
        require(0 < self.estimate_smoothing <= 1, "labelling.estimate_smoothing", "in (0, 1]", self.estimate_smoothing)
        require(self.size_strength >= 0, "labelling.size_strength", "0 or more", self.size_strength)
        require(0 < self.fraction <= 1, "labelling.fraction", "in (0, 1]", self.fraction)
        require(self.memory_gb > 0, "labelling.memory_gb", "above 0", self.memory_gb)
        require(self.head_groups >= 1, "labelling.head_groups", "at least 1", self.head_groups)
        require(self.batch_size >= 1, "labelling.batch_size", "at least 1", self.batch_size)
        require(self.warmup_batches >= 0, "labelling.warmup_batches", "0 or more", self.warmup_batches)
        unknown = set(self.weights) - set(MODALITIES)
        require(not unknown, "labelling.weights", f"a weight for each of {(*MODALITIES,)}", self.weights)
        require(
            all(weight > 0 for weight in self.weights.values()),
            "labelling.weights",
            "above 0 (leave a modality out with modalities=[...])",
            self.weights,
        )
        if self.method == "kmeans":
            for key, plain in (("size_strength", 0.0), ("fraction", 1.0)):
                found = getattr(self, key)
                require(found == plain, f"labelling.{key}", f"{plain:g} with labelling.method=kmeans", found)
        if isinstance(self.marginal, list):
            positive = all(isinstance(share, int | float) and 0 < share < math.inf for share in self.marginal)
            require(positive, "labelling.marginal", "a list of positive shares", self.marginal)
        else:
            kinds = ("uniform", "gaussian", "zipf", "estimated")
            require(self.marginal in kinds, "labelling.marginal", f"one of {kinds} or a list", self.marginal)


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
        require(self.batch_size >= 2, "optim.batch_size", "at least 2 (batch norm)", self.batch_size)
        require(self.lr > 0, "optim.lr", "above 0", self.lr)
        require(self.lr_clips >= 1, "optim.lr_clips", "at least 1", self.lr_clips)
        for key in ("warmup_lr", "warmup_epochs", "weight_decay"):
            require(getattr(self, key) >= 0, f"optim.{key}", "0 or more", getattr(self, key))
        require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)


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
        require(self.max_epochs >= 1, "trainer.max_epochs", "at least 1", self.max_epochs)
        require(self.num_nodes >= 1, "trainer.num_nodes", "at least 1", self.num_nodes)
        clip = self.gradient_clip_val
        require(clip is None or clip > 0, "trainer.gradient_clip_val", "above 0, or null for no clipping", clip)


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
        require(self.encoder_lr >= 0, "finetune.encoder_lr", "0 or more", self.encoder_lr)
        require(self.gamma > 0, "finetune.gamma", "above 0", self.gamma)
        require(
            all(epoch >= 1 for epoch in self.milestones), "finetune.milestones", "numbers of epochs", self.milestones
        )
        require(
            0 < self.validation_fraction < 1,
            "finetune.validation_fraction",
            "above 0 and below 1",
            self.validation_fraction,
        )
        for key in ("validation_every", "validation_views", "test_views"):
            require(getattr(self, key) >= 1, f"finetune.{key}", "at least 1", getattr(self, key))


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
        require(
            self.labelling.head_groups <= self.heads.num_heads,
            "labelling.head_groups",
            f"at most heads.num_heads = {self.heads.num_heads}",
            self.labelling.head_groups,
        )
        self._check_source()
        if isinstance(self.labelling.marginal, list):
            require(
                len(self.labelling.marginal) == self.heads.num_clusters,
                "labelling.marginal",
                f"a list of heads.num_clusters = {self.heads.num_clusters} shares",
                f"{len(self.labelling.marginal)} shares",
            )
        for section, key, number in numbers(self):
            require(math.isfinite(number), f"{section}{key}", "a finite number", number)

    def _check_source(self) -> None:
        source, method = self.labelling.source, self.labelling.method
        if len(self.modalities) == 1:
            known = "joint or own with one modality, which has no other to learn from or to be joined with"
            require(source in ("joint", "own"), "labelling.source", known, source)
        elif method == "kmeans":
            known = "concat (K-means on all features together), own or cross with labelling.method=kmeans"
            require(source != "joint", "labelling.source", known, source)

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
