"""Every setting of a run, with its default, its meaning and its limits.

The defaults are the published VGG-Sound recipe but for what better labels come from: labelling.votes and first, and
loss.reduce, for which configs/published.yaml goes back (docs name every departure from the official code).
"""

import math
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from selavi.config.label_sets import LabelSet, make_label_sets
from selavi.config.methods import LABELLING_METHODS, MethodTraits
from selavi.config.settings import Need, check_limits, require, section, setting
from selavi.modalities import MAIN, MIXED, MODALITIES, clip_seconds, named, reads_media, section_of


def _modality(*kinds: str) -> Need:
    """A modality of one of these kinds."""
    return Need(f"{' or '.join(kinds)} among the modalities", lambda config: bool({*kinds} & {*config.kinds.values()}))


def _of_section(name: str) -> Need:
    """A modality of a kind that has its settings in a section."""
    return _modality(*(kind for kind in MODALITIES if section_of(kind) == name))


FRAMES, VIDEO, SOUND, AUDIO = _of_section("video"), _modality("video"), _of_section("audio"), _modality("audio")
FEATURES, IMAGE = _modality("features"), _modality("image")
CUT = Need("data.cut=every or shots", lambda config: config.data.cut != "whole")
CUT_EVENLY = Need("data.cut=every", lambda config: config.data.cut == "every")
MEDIA = Need("media (vectors are no files that could be equal)", reads_media)
FIRST_OF_DOUBLES = Need("data.doubles=first", lambda config: config.data.doubles == "first")
RECORDINGS = Need("recordings (still pictures and vectors have no seconds)", lambda config: clip_seconds(config) > 0)
SHARDS_OF_A_URL = Need("prepared shards of a URL as data.root", lambda config: "://" in config.data.root)
TRANSPORT = Need("labelling.method=transport", lambda config: config.labelling.method == "transport")
RELABELS = Need(
    "labelling.method=transport, kmeans or cliques", lambda config: LABELLING_METHODS[config.labelling.method].relabels
)
CLIQUES = Need("labelling.method=cliques", lambda config: config.labelling.method == "cliques")
GIVEN = Need("labelling.method=given", lambda config: config.labelling.method == "given")
CROSS_ENTROPY = Need("loss.kind=cross_entropy", lambda config: config.loss.kind == "cross_entropy")
NEIGHBOURS = Need("loss.kind=neighbours", lambda config: config.loss.kind == "neighbours")
VOTES_TOGETHER = Need("modalities that vote together", lambda config: len(config.label_sets[0].voters) > 1)
FIRST_GIVEN = Need("labelling.first other than random", lambda config: config.labelling.first != "random")
KEEPS_TABLES = Need(
    "labelling.method=transport, given or none, or labelling.first=crafted",
    lambda config: config.labelling_method.reads_scores or config.labelling.first == "crafted",
)
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
OWN_ENCODERS = Need("a training (a fine-tuning takes those of its run)", command="train")
FINETUNING = Need("a fine-tuning", command="finetune")


def _marginal(*kinds: str) -> Need:
    """Cluster sizes of one of these kinds; a list of sizes is of kind `list`."""

    def holds(config: "Config") -> bool:
        marginal = config.labelling.marginal
        return ("list" if isinstance(marginal, list) else marginal) in kinds

    return Need(f"labelling.marginal={' or '.join(kinds)}", holds)


@dataclass
class DataConfig:
    """Where the media are and how clips are cut from them."""

    root: str = setting("data/media", free="resume", path=True)
    """Folder of media: {root}/{split}/{class}/{file}, {root}/{class}/{file}, or files alone."""
    list: str = setting("", path=True, free="told")
    """An official list: only the clips it names are used, with its splits and labels; several files as a pattern."""
    source: Literal["auto", "vggsound", "kinetics", "kinetics_sounds", "ave", "ucf101", "hmdb51", "folder", "table"] = (
        setting("auto")
    )
    """Format of `list`; auto: by its content.  kinetics_sounds without a list: SeLaVi's 32 classes of the folders."""
    layout: Literal["auto", "classes", "splits", "flat"] = setting("auto", free="resume")
    """What the folders below `root` mean.  classes: the first one is the class, all is split `train`; splits: the
    first one is the split, the second the class; flat: nothing, no clip has a label; auto: decided by their names,
    and reported."""
    demo: bool = setting(False, free="resume")
    """Generate the demo set in `root` where it is not there yet."""
    train_split: str = setting("train")
    """Name of the split that is trained on."""
    clip_s: float = setting(1.0, least=0.04, most=600, unit="seconds", needs=RECORDINGS)
    """Seconds of a clip, sound and picture alike."""
    cut: Literal["whole", "every", "shots"] = setting("whole", needs=RECORDINGS)
    """whole: a recording is one clip; every: one longer than `cut_s` becomes pieces, each a clip of its own; shots: it
    is cut where the picture is (with PySceneDetect), one without a picture where its sound becomes another."""
    cut_s: float = setting(10.0, least=0.04, most=3600, unit="seconds", needs=CUT)
    """Seconds of a piece; the last one of a recording may be shorter, down to `clip_s`.  A longer shot is cut into
    equal parts."""
    stride_s: float = setting(0.0, least=0, most=3600, unit="seconds", needs=CUT_EVENLY)
    """Seconds from the beginning of a piece to that of the next; 0: `cut_s`, so that they neither overlap nor leave
    gaps."""
    doubles: Literal["keep", "first"] = setting("keep", needs=MEDIA)
    """Files that are the same recording.  keep: all are used; first: of equal ones only the first by its path is."""
    near_doubles: bool = setting(False, needs=FIRST_OF_DOUBLES)
    """Near-equal files are doubles, too: encoded anew, made smaller or shortened; each file is decoded once for it."""
    num_workers: int = setting(4, least=0, free="always")
    """Loader processes; any number gives the same clips."""
    scan_workers: int = setting(0, least=0, free="always")
    """Processes that probe and decode ahead of training; 0: one for each core."""
    cache_dir: str = setting(".selavi-cache", free="always", path=True)
    """Scans and decoded media are kept here between runs."""
    cache_gb: float = setting(0.0, least=0, free="always")
    """Media are decoded once into a memory-mapped file if that needs at most this many GB; 0: decode each time."""
    shard_cache_gb: float = setting(20.0, least=0, free="resume", needs=SHARDS_OF_A_URL)
    """Prepared shards of a URL are kept in `cache_dir` up to this many GB; the least recently used go first."""
    shuffle_shards: int = setting(16, least=1, needs=SHARDS_OF_A_URL)
    """Clips of a URL's shards are shuffled over about this many shards, which the shard cache should hold."""
    max_bad_fraction: float = setting(0.1, least=0, most=1, free="resume")
    """A larger share of unreadable files stops the run before training."""
    audio_policy: Literal["require", "mask", "zeros"] = setting("mask", needs=SOUND)
    """Clips without sound or silent, where `audio` is a modality.  require: not used; mask: used without their sound,
    which neither trains nor votes; zeros: used, and their sound is zeros."""
    timeout_s: float = setting(30.0, above=0, free="resume")
    """Seconds of processor time that one clip may take to decode, or a file to probe; on the clock 20 times as many."""
    allow_links: bool = setting(False, free="resume")
    """Follow links that lead out of `root`; else they are refused."""

    def __post_init__(self) -> None:
        check_limits(self)
        if not self.list and self.source not in ("auto", "folder", "kinetics_sounds"):
            raise ValueError(f"data.source={self.source} needs a list: set data.list to its file")
        if self.cut != "whole":
            require(self.cut_s >= self.clip_s, "data.cut_s", f"at least data.clip_s={self.clip_s:g}", self.cut_s)
            least_s = 0.01 if self.stride_s else 0.0
            require(self.stride_s >= least_s, "data.stride_s", "0, or at least 0.01", self.stride_s)


@dataclass
class VideoConfig:
    """Frames of a clip and their augmentation."""

    num_frames: int = setting(30, least=1)
    """Frames of a clip, evenly spaced over `data.clip_s`."""
    decode_size: int = setting(144, least=16, most=1024)
    """Side of the decoded square, in pixels: the short side is resized to it, the long side cropped."""
    size: int = setting(112, least=16, most=1024)
    """Side of the crop that the encoder sees."""
    stream: int = setting(MAIN, least=MAIN, most=31)
    """Which picture stream of a file is seen: -1: the one that a player shows; 0: the first.  Two cameras are two
    modalities, each with its own `stream`."""
    crop_fraction: tuple[float, float] = setting((0.7, 0.875))
    """Side of the random training crop as a share of the decoded square: 112 of 160 to 112 of 128 pixels."""
    flip: float = setting(0.5, least=0, most=1)
    """Probability of a mirrored clip."""
    colour_jitter: float = setting(0.0, least=0, below=1)
    """Largest relative change of brightness, contrast and saturation; the hue turns by up to a quarter of it."""
    greyscale: float = setting(0.0, least=0, most=1)
    """Probability of a clip without colour."""
    mean: tuple[float, float, float] = setting((0.45, 0.45, 0.45), least=0, most=1)
    """Subtracted from red, green and blue, in [0, 1], before the encoder; released weights expect their own."""
    std: tuple[float, float, float] = setting((0.225, 0.225, 0.225), above=0)
    """What the colours are divided by after that."""

    def __post_init__(self) -> None:
        check_limits(self)
        low, high = self.crop_fraction
        require(0 < low <= high <= 1, "video.crop_fraction", "0 < low <= high <= 1", self.crop_fraction)


@dataclass
class AudioConfig:
    """Log-mel spectrogram of a clip and its augmentation."""

    sample_rate: int = setting(24000, least=1000)
    """Samples a second to which the sound is resampled, as mono."""
    channel: int = setting(MIXED, least=MIXED, most=63)
    """Which channel of the sound is heard: -1: all of them, mixed; 0: the first.  Two microphones are two modalities
    with a channel each; a recording with fewer channels lacks them."""
    num_mels: int = setting(257, least=8)
    """Bands of the mel spectrogram."""
    num_fft: int = setting(1024)
    """Length of the Fourier transform in samples, at least that of the window."""
    window_s: float = setting(0.02)
    """Seconds of a window."""
    hop_s: float = setting(0.01, above=0)
    """Seconds from one window to the next."""
    filter_bank: Literal["slaney", "psf"] = setting("slaney")
    """slaney: Slaney's mel filters on Hann windows of samples in [-1, 1]; psf: what the official weights were trained
    on, the filters of python_speech_features on pre-emphasised 16-bit samples, without a window."""
    standardise: Literal["clip", "none", "fixed"] = setting("clip")
    """clip: zero mean and unit variance over each spectrogram, so loudness does not count; none: as the original
    trains; fixed: less 1.93, over 17.89, as the original evaluates (sensible with psf only)."""
    volume_jitter: float = setting(0.1, least=0, below=1)
    """Largest relative change of the amplitude."""
    shift_mel: float = setting(0.0, least=0, below=1)
    """Largest shift along the mel axis, as a share of it: another pitch."""
    shift_time: float = setting(0.0, least=0, most=1)
    """Largest shift along the time axis, as a share of it, wrapping around: when the sound begins then does not count,
    which matters where picture and sound share a moment more reliably than a meaning."""
    tone_jitter: float = setting(0.0, least=0)
    """Strength of a smooth random filter over the mel axis, in nepers: another room or microphone."""
    mask_time: float = setting(0.0, least=0, below=1)
    """Largest share of the time axis hidden by one mask (SpecAugment)."""
    mask_mel: float = setting(0.0, least=0, below=1)
    """Largest share of the mel axis hidden by one mask (SpecAugment)."""

    def __post_init__(self) -> None:
        check_limits(self)
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


@dataclass
class FeaturesConfig:
    """Vectors of clips that something else has made, and how another view is made of one."""

    file: str = setting("", free="resume", path=True)
    """The file: .npy, .npz, Parquet or safetensors; see docs/features.md."""
    ids: str = setting("", free="resume", path=True)
    """A file with the id of each row; empty: the file has them itself, or its rows are numbered."""
    key: str = setting("")
    """Name of the array or column in the file, where several may be meant."""
    views: bool = setting(False)
    """Whether an id may have several rows: crops, moments or augmented views of the clip, of which each view takes
    one."""
    num_dims: int = setting(0, least=0)
    """Numbers a vector; 0: as many as the file has, which the run then writes down."""
    noise: float = setting(0.0, least=0)
    """Gaussian noise that is added in a view, in standard deviations of each number over the training clips."""
    drop: float = setting(0.0, least=0, below=1)
    """Share of the numbers that a view takes for unknown: their mean stands in their place."""
    layers: list[int] = setting([], least=1)
    """Widths of the encoder's layers, each linear, batch norm and ReLU; none: the vectors themselves, each number
    brought to mean 0 and variance 1, are what the heads read."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class ImageConfig:
    """Still pictures and their augmentation; of recordings, one frame of each clip."""

    decode_size: int = setting(256, least=8, most=1024)
    """Side of the decoded square, in pixels: the short side is resized to it, the long side cut."""
    size: int = setting(224, least=8, most=1024)
    """Side of what the encoder sees."""
    crop_area: tuple[float, float] = setting((0.2, 1.0), above=0, most=4)
    """Share of the square's area that a view shows, from the smallest to the largest; above 1 it may reach beyond the
    edges, which are continued."""
    crop_ratio: float = setting(4 / 3, least=1, most=4)
    """Largest ratio of the sides of what a view shows: it is pressed into a square; 1: squares alone."""
    flip: float = setting(0.5, least=0, most=1)
    """Probability of a mirrored picture."""
    rotation: float = setting(0.0, least=0, most=180, unit="degrees")
    """Largest turn to either side."""
    shear: float = setting(0.0, least=0, most=60, unit="degrees")
    """Largest slant of upright lines to either side."""
    colour_jitter: float = setting(0.4, least=0, below=1)
    """Largest relative change of brightness, contrast and saturation; the hue turns by up to a quarter of it."""
    greyscale: float = setting(0.2, least=0, most=1)
    """Probability of a picture without colour."""
    blur: float = setting(0.5, least=0, most=1)
    """Probability of a blurred picture, with a standard deviation of up to a hundredth of the side."""
    mean: tuple[float, float, float] = setting((0.485, 0.456, 0.406), least=0, most=1)
    """Subtracted from red, green and blue, in [0, 1], before the encoder: the means of ImageNet."""
    std: tuple[float, float, float] = setting((0.229, 0.224, 0.225), above=0)
    """What the colours are divided by after that."""

    def __post_init__(self) -> None:
        check_limits(self)
        low, high = self.crop_area
        require(low <= high, "image.crop_area", "two numbers, the smaller one first", self.crop_area)


@dataclass
class EncodersConfig:
    """R(2+1)D for video and motion, ResNet for audio and still pictures; features have 8 x width dimensions."""

    video_width: int = setting(64, least=4, needs=FRAMES)
    """Channels of the first stage; 64 is torchvision's R(2+1)D-18."""
    video_depth: Literal[10, 18] = setting(18, needs=FRAMES)
    """10 has one residual block a stage, 18 two."""
    # At 4, oneDNN (torch 2.14.1) writes beyond its memory in the backward pass on some processors.
    audio_width: int = setting(64, least=8, needs=AUDIO)
    """Channels of the first stage; 64 is that of the original."""
    audio_depth: Literal[9, 18] = setting(9, needs=AUDIO)
    """ResNet-9 has one residual block a stage, ResNet-18 two."""
    video_layout: Literal["torchvision", "vmz"] = setting("torchvision", needs=FRAMES)
    """torchvision: as its R(2+1)D-18; vmz: as XDC's weights, where the channels between the spatial and the temporal
    convolution follow from each pair's own input, and batch norm adds 0.001 to the variance."""
    image_width: int = setting(64, least=8, needs=IMAGE)
    """Channels of the first stage; 64 is torchvision's ResNet-18."""
    image_depth: Literal[9, 18] = setting(18, needs=IMAGE)
    """ResNet-9 has one residual block a stage, ResNet-18 two."""
    image_stem: Literal["strided", "plain"] = setting("strided", needs=IMAGE)
    """What comes before the stages.  strided: as published, 7 x 7 and a pooling, after which a side is a quarter as
    long; plain: 3 x 3 alone, for pictures of up to some 64 pixels."""
    init: str = setting("", path=True)
    """Start the encoders from these weights: a run, a folder of `selavi convert`, or a released file; empty: at
    random.  The heads always start at random."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class HeadsConfig:
    """Classifiers on the features, the same number and kind for each modality."""

    num_heads: int = setting(10, least=1)
    """Independent clusterings that are learned at once; evaluation picks one without labels."""
    num_clusters: int = setting(309, least=2, why="one cluster would hold every clip")
    """K, the clusters of each head; at most the number of training clips."""
    kind: Literal["mlp", "linear"] = setting("mlp")
    """mlp: two layers, the hidden one as wide as the features; linear: one layer."""
    dropout: float = setting(
        0.3, least=0, below=1, needs=Need("heads.kind=mlp", lambda config: config.heads.kind == "mlp")
    )
    """Share of values dropped before each linear layer of an mlp head."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class LabellingConfig:
    """When clips are labelled and how (SeLaVi, sections 3.1 to 3.3)."""

    source: str = setting("joint")
    """What labels come from.  joint: all modalities' heads together (SeLaVi; of one modality, SeLa); own: each
    modality labels itself; cross: each is labelled by the other one (XDC), or by all others together; concat: the
    concatenated features; the name of a modality: it labels for all.  Under own and cross every modality has labels of
    its own, and heads are numbered through: those of the first modality, then of the next."""
    method: str = setting("transport")
    """transport: the heads' probabilities, with given cluster sizes; kmeans: K-means on the encoders' features, each
    standardised, of length 1 a clip and modality (DeepCluster, XDC); cluster sizes are free and clips of small
    clusters weigh more in the loss; cliques: K tight groups of features, far apart, the other clips without a label
    (CliqueCNN); given: the labels of a table, which nothing changes; none: no labels while training, for a loss that
    needs none (loss.kind), and afterwards each clip's likeliest cluster.  The settings of sizes, sharpness and
    tolerance belong to transport."""
    table: str = setting("", path=True, needs=GIVEN)
    """The labels to learn: a table (CSV, Parquet) with the columns id and cluster, and perhaps head; or the names.csv
    in a run's folder: the clips that have a name by it.  Clips that are left out teach nothing, and get in the end what
    the heads say."""
    clique_size: int = setting(10, least=2, needs=CLIQUES)
    """Clips of a clique; fewer where clips are fewer than this for each cluster, or too few lie near enough."""
    first: str = setting("crafted", path=True, earlier="random", needs=RELABELS)
    """Labels that the encoders learn first.  crafted: heads on crafted features (edges, colours, timbre, rhythm) make
    them in a minute before the first step; where there are vectors alone, K-means on them, if it agrees with itself
    from different starts.  kmeans: K-means on the vectors, whether it agrees or not; random: the new heads label from
    the first step on, as published; else a table (CSV, Parquet) with the columns id and cluster, and perhaps head."""
    first_share: float = setting(0.25, above=0, most=1, needs=(RELABELS, FIRST_GIVEN))
    """Share of the steps in which the first labels are learned; the labellings of that time are left out."""
    first_learned: float = setting(0.2, least=0, below=1, needs=(RELABELS, FIRST_GIVEN), earlier=0.0)
    """After that they are kept until every modality alone agrees with them so far, on clips as the labelling sees them:
    0 is what chance gives, 1 all of them.  Else one that has not learned them would spoil the labels for all; 0: they
    are not kept."""
    first_most: float = setting(0.6, above=0, most=1, needs=(RELABELS, FIRST_GIVEN))
    """Share of the steps after which they are kept no longer, learned or not."""
    num_labellings: int = setting(100, least=2, needs=RELABELS)
    """Points of the schedule; the last one falls on the end of training."""
    power: float = setting(1.5, above=0, needs=RELABELS)
    """The i-th of n labellings happens after a share (i / (n - 1)) ** power of all steps."""
    features: Literal["fresh", "kept"] = setting("fresh", needs=RELABELS)
    """What a labelling reads.  fresh: a pass over all clips, with the encoders as they are (published); kept: the
    features that the training steps have made since, at most an epoch old, so that no clip is read or encoded to be
    labelled; the first labellings, before an epoch is over, and the last one are fresh."""
    sharpness: float = setting(20.0, above=0, needs=TRANSPORT)
    """The plan is proportional to exp(sharpness * weighted mean log-probability)."""
    tol: float = setting(1e-6, above=0, below=2, needs=TRANSPORT)
    """Largest L1 distance between the soft cluster masses and the marginal."""
    marginal: Any = setting("gaussian", needs=TRANSPORT)
    """Cluster sizes: uniform, gaussian, zipf, estimated (the soft masses before each labelling, smoothed), or a list
    with one positive share for each cluster."""
    marginal_order: Literal["aligned", "inverse", "none"] = setting(
        "aligned", needs=(TRANSPORT, _marginal("gaussian", "zipf", "list"))
    )
    """aligned: large targets go to the clusters that are large now; inverse: what the official code does."""
    gaussian_sd: float = setting(0.1, least=0, below=1, needs=(TRANSPORT, _marginal("gaussian")))
    """Standard deviation of the gaussian cluster sizes, relative to their mean."""
    zipf_exponent: float = setting(1.0, least=0, needs=(TRANSPORT, _marginal("zipf")))
    """The r-th largest zipf cluster takes a share proportional to r ** -zipf_exponent."""
    estimate_smoothing: float = setting(0.5, above=0, most=1, needs=(TRANSPORT, _marginal("estimated")))
    """Share of equal sizes in the estimated ones."""
    size_strength: float = setting(0.0, least=0, needs=TRANSPORT)
    """0: the sizes are met exactly; else they may float, held by this weight on KL(sizes || marginal) (P2OT)."""
    fraction: float = setting(1.0, above=0, most=1, needs=TRANSPORT)
    """Share of the clips that the first labelling labels, the most confident; it grows to 1 (P2OT)."""
    memory_gb: float = setting(8.0, above=0, free="resume", needs=KEEPS_TABLES)
    """Memory for the scores of one head; over it they are kept in float16, and over twice as much computed anew for
    each pass, which is slower.  As much is for the crafted features of first labels, of which fewer views are kept."""
    head_groups: int = setting(2, least=1)
    """Heads are split anew at each labelling; each group is labelled from its own augmented view of every clip."""
    votes: Literal["equal", "raw"] = setting("equal", needs=(TRANSPORT, VOTES_TOGETHER), earlier="raw")
    """What a modality's vote is.  raw: its log-probabilities (published), so that a modality has more say the more
    confident it is; equal: the same, brought to one spread over clips and clusters, so that all have the same say."""
    weights: dict[str, float] = setting(
        {"video": 1.0, "audio": 1.0}, above=0, why="leave a modality out with modalities=[...]", needs=VOTES_TOGETHER
    )
    """Weight of each modality's vote."""
    align_modalities: bool = setting(True, needs=(TRANSPORT, VOTES_TOGETHER))
    """Permute the audio heads to agree with the video heads before the first labelling, where they vote together."""
    batch_size: int = setting(64, least=1, free="resume")
    """Clips encoded at once, on one device, where no gradient is needed."""
    warmup_batches: int = setting(20, least=0)
    """Batches that only update the batch-norm statistics, before the first labelling."""

    def __post_init__(self) -> None:
        if isinstance(self.marginal, list):
            positive = all(isinstance(share, int | float) and 0 < share < math.inf for share in self.marginal)
            require(positive, "labelling.marginal", "a list of positive shares", self.marginal)
        else:
            kinds = ("uniform", "gaussian", "zipf", "estimated")
            require(self.marginal in kinds, "labelling.marginal", f"one of {kinds} or a list", self.marginal)
        check_limits(self)
        if self.method not in LABELLING_METHODS:
            choices = list(LABELLING_METHODS)
            raise ValueError(f"Invalid value {self.method!r}, expected one of {choices} (setting labelling.method)")
        if not LABELLING_METHODS[self.method].has_plan:
            for key, plain in (("size_strength", 0.0), ("fraction", 1.0)):
                value = getattr(self, key)
                require(value == plain, f"labelling.{key}", f"{plain:g} with labelling.method={self.method}", value)
        if self.method == "given":
            expected = "the path of a table with the columns id and cluster with labelling.method=given"
            require(bool(self.table), "labelling.table", expected, repr(self.table))


@dataclass
class LossConfig:
    """What the heads learn: labels (SeLaVi, eq. 4), or something that needs none."""

    kind: Literal["cross_entropy", "mutual_information", "neighbours"] = setting("cross_entropy")
    """cross_entropy: with the clip's label; mutual_information: of the clusters that the modalities of a clip, or two
    views of it, have (IIC); neighbours: a clip and one of the vectors nearest to its own have the same cluster, and the
    clusters are used alike (SCAN).  The last two need labelling.method=none and at least 2 clips a step for each
    cluster, better 4."""
    neighbours: int = setting(20, least=1, needs=NEIGHBOURS)
    """Nearest vectors of each clip of which a step draws one; at most as many as there are other clips."""
    balance: float = setting(5.0, least=0, needs=NEIGHBOURS)
    """Weight of the entropy of the clusters' mean probabilities, which keeps all of them in use."""
    reduce: Literal["sum", "mean"] = setting(
        "sum",
        needs=(CROSS_ENTROPY, Need("more than one modality", lambda config: len(config.branches) > 1)),
        earlier="mean",
    )
    """Over modalities.  mean: published, with which M modalities train at 1/M of the learning rate of one alone; sum:
    each trains at the rate that optim.lr says."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class OptimConfig:
    """SGD; the learning rate grows with the number of clips in a step."""

    batch_size: int = setting(16, least=2, why="batch norm")
    """Clips a step on one device."""
    micro_batch: int | None = setting(None, least=2, why="batch norm", free="told")
    """Clips of a step that are encoded at a time, and whose gradients are then added (gradient accumulation), where
    memory does not hold those of all of them; a divisor of `batch_size`.  Batch norm sees only these together; null:
    all."""
    lr: float = setting(0.01, above=0, free="told")
    """Learning rate for a step of `lr_clips` clips; a step of n clips uses lr * n / lr_clips."""
    lr_clips: int = setting(16, least=1)
    """Clips of a step that `lr` is meant for."""
    warmup_lr: float = setting(
        0.01, least=0, needs=Need("optim.warmup_epochs above 0", lambda config: config.optim.warmup_epochs > 0)
    )
    """Where the linear warm-up starts; with one device of `lr_clips` clips the rate is constant."""
    warmup_epochs: float = setting(10.0, least=0)
    """Epochs over which the rate rises from `warmup_lr` to its target."""
    schedule: Literal["constant", "cosine"] = setting("constant")
    """What follows the warm-up: cosine falls to 0 at the last step."""
    momentum: float = setting(0.9, least=0, below=1, free="told")
    """Momentum of SGD, without Nesterov."""
    weight_decay: float = setting(1e-5, least=0, free="told")
    """Weight decay of every parameter."""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.micro_batch is not None:
            expected = f"a divisor of optim.batch_size = {self.batch_size}"
            require(self.batch_size % self.micro_batch == 0, "optim.micro_batch", expected, self.micro_batch)


@dataclass
class TrainerConfig:
    """Handed to pytorch_lightning.Trainer under the same names."""

    max_epochs: int = setting(200, least=1)
    """Passes over the training clips; the schedules of labels and rate span all of them."""
    more_epochs: list[int] = setting([], least=1, free="resume")
    """Epochs added to a run that went on with `--more`, a number for each time; the run remembers them.  Both schedules
    start anew over each, the rate without warm-up, labels as densely as before, and end with a labelling."""
    accelerator: str = setting("auto", free="resume")
    """cpu, gpu, or auto: a GPU where there is one."""
    devices: Any = setting("auto")
    """Number of devices on each machine, or a list of their indices."""
    num_nodes: int = setting(1, least=1)
    """Number of machines."""
    strategy: str = setting("auto", free="resume")
    """How several devices work together, such as ddp."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = setting(
        "auto", earlier="32-true", earlier_saved=True, free="told"
    )
    """32-true: float32; bf16-mixed: bfloat16 where it is safe; auto: that on a GPU which computes in bfloat16 itself
    (NVIDIA since Ampere), float32 elsewhere."""
    compile: bool | None = setting(None, earlier=False, earlier_saved=True, free="told", needs=OWN_ENCODERS)
    """Whether torch compiles the encoders for the steps of training, which takes a minute or two before the first one;
    null: on a GPU, where a training has at least 10,000 steps.  Where it cannot, they run as they are.  Numbers differ
    in their last digits."""
    gradient_clip_val: float | None = setting(None, above=0, free="told")
    """Largest norm of the gradient; null: no limit."""
    sync_batchnorm: bool = setting(True)
    """Batch-norm statistics over all devices."""
    on_nan: Literal["stop", "skip"] = setting("stop", free="resume")
    """What becomes of a batch whose gradient is not finite.  stop: the run ends before it, with exit code 4; skip: it
    is left out, and noted in RUN/skipped_batches.csv."""
    max_skipped: int = setting(
        10, least=0, free="resume", needs=Need("trainer.on_nan=skip", lambda config: config.trainer.on_nan == "skip")
    )
    """Batches that a run may leave out before it stops all the same."""
    save_every_s: float = setting(600.0, above=0, unit="s", free="resume")
    """Most training that a killed run loses: a checkpoint is written within an epoch, too, besides those at the end of
    each epoch and when a signal stops the run."""
    timeout_s: float = setting(300.0, above=0, unit="s", free="resume")
    """How long processes that train together wait for one that is late; then they end, and name it."""
    log_every_n_steps: int = setting(10, free="resume")
    """Steps from one line of metrics.csv to the next."""
    loggers: list[str] = setting(["csv", "tensorboard"], free="resume")
    """Where figures go.  csv: RUN/metrics.csv, from which reports draw their curves, so that it is always among them;
    tensorboard: RUN/tensorboard; wandb: Weights & Biases; mlflow: MLflow.  The last two are extras, which go on with
    their own run where the training goes on, and see all settings (docs/reliability.md)."""

    def __post_init__(self) -> None:
        check_limits(self)
        are_names = all(name in LOGGERS for name in self.loggers) and len({*self.loggers}) == len(self.loggers)
        expected = f"a list of {', '.join(LOGGERS)}, each at most once and csv (which reports read) among them"
        require(are_names and "csv" in self.loggers, "trainer.loggers", expected, self.loggers)

    @property
    def parts(self) -> list[int]:
        """Epochs of the parts of a training that have schedules of their own."""
        return [self.max_epochs, *self.more_epochs]

    @property
    def all_epochs(self) -> int:
        """Epochs of all parts."""
        return sum(self.parts)


@dataclass
class FinetuneConfig:
    """Training one encoder of a finished run on labels (`selavi finetune`); the defaults are the published protocol.

    An epoch sees one window of each clip.  The published 12 epochs of 10 windows each are 120 of these.
    """

    modality: Literal["video", "audio"] = setting("video")
    """Whose encoder is trained."""
    start: Literal["run", "random"] = setting("run")
    """run: from the run's weights; random: the same encoder from new ones, which the run's have to beat."""
    encoder_lr: float = setting(0.1, least=0)
    """Learning rate of the encoder as a share of `optim.lr`, which is the classifier's."""
    milestones: list[int] = setting([60, 100], least=1, unit="epochs")
    """Numbers of epochs after which the learning rate is multiplied by `gamma`."""
    gamma: float = setting(0.05, above=0)
    """Factor of the learning rate at each milestone."""
    validation_fraction: float = setting(0.1, above=0, below=1)
    """Share of the training clips of each class that is not trained on but chooses the best epoch."""
    group: str = setting("")
    """What keeps clips of one recording on one side: ucf101, hmdb51, or a regular expression that matches the part of
    a clip's id which they share; empty: nothing."""
    validation_every: int = setting(10, least=1)
    """Epochs from one validation to the next; the last epoch is always validated."""
    validation_views: int = setting(3, least=1)
    """Evenly spaced views of a clip whose logits are averaged in validation."""
    test_views: int = setting(10, least=1)
    """Evenly spaced views of a test clip whose logits are averaged."""
    test_crops: Literal[1, 3] = setting(3)
    """Squares of each test view: 1, the middle; 3, also both ends of the long side."""

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass
class Config:
    """A whole run."""

    seed: int = setting(0)
    """Seed of everything random; equal seeds give equal labels."""
    run_dir: str = setting("", free="always", path=True)
    """Where everything of this run goes; empty: runs/NAME for a configuration file NAME.yaml."""
    resume: Literal["never", "auto", "must"] = setting("never", free="always")
    """never: refuse an existing run folder; auto: go on where it stopped, or start; must: go on or fail."""
    modalities: Any = setting(["video", "audio"])
    """Kinds of input that a clip has: [video, audio] is SeLaVi, one alone is SeLa on it; or names with their kinds, of
    which several may be alike: {left: video, right: video}.  A modality has the settings of its kind (motion those of
    video, statistics those of audio), changed by those in a section of its own name: left.size=64.  Other recipes:
    labelling.source and method."""
    data: DataConfig = section(DataConfig)
    video: VideoConfig = section(VideoConfig, needs=FRAMES)
    audio: AudioConfig = section(AudioConfig, needs=SOUND)
    features: FeaturesConfig = section(FeaturesConfig, needs=FEATURES)
    image: ImageConfig = section(ImageConfig, needs=IMAGE)
    encoders: EncodersConfig = section(EncodersConfig, needs=OWN_ENCODERS)
    heads: HeadsConfig = section(HeadsConfig, needs=OWN_ENCODERS)
    labelling: LabellingConfig = section(LabellingConfig)
    loss: LossConfig = section(LossConfig)
    optim: OptimConfig = section(OptimConfig)
    trainer: TrainerConfig = section(TrainerConfig)
    finetune: FinetuneConfig = section(FinetuneConfig, needs=FINETUNING)
    own: dict[str, Any] = field(default_factory=dict)
    """Sections of modalities that are not named as their kind, by name; in a file they stand beside the others."""

    def __post_init__(self) -> None:
        check_limits(self)
        kinds = named(self.modalities, taken=[entry.name for entry in fields(Config)])
        own = {name: kind for name, kind in kinds.items() if name != kind}
        self.modalities = kinds if own else list(kinds)
        self.own = {name: self.own.get(name) or copy(getattr(self, section_of(kind))) for name, kind in own.items()}
        require(
            self.labelling.head_groups <= self.heads.num_heads,
            "labelling.head_groups",
            f"at most heads.num_heads = {self.heads.num_heads}",
            self.labelling.head_groups,
        )
        self._check_source()
        self._check_loss()
        for name in (name for name, kind in kinds.items() if kind == "motion"):
            num_frames, key = self.section(name).num_frames, f"{name if name in own else section_of(name)}.num_frames"
            require(num_frames > 1, key, "2 or more for motion", num_frames)
        if isinstance(self.labelling.marginal, list):
            require(
                len(self.labelling.marginal) == self.heads.num_clusters,
                "labelling.marginal",
                f"a list of heads.num_clusters = {self.heads.num_clusters} shares",
                f"{len(self.labelling.marginal)} shares",
            )

    def _check_source(self) -> None:
        source, method = self.labelling.source, self.labelling_method
        names = ", ".join(self.kinds)
        choices = f"joint, own, cross, concat or the name of a modality ({names})"
        require(source in ("joint", "own", "cross", "concat", *self.kinds), "labelling.source", choices, source)
        if len(self.kinds) == 1:
            sources = "joint or own with one modality, which has no other to learn from or to be joined with"
            require(source not in ("cross", "concat"), "labelling.source", sources, source)
        elif not method.reads_scores:
            together = f"concat ({method.title} on all features together)"
            sources = f"{together}, own, cross or a modality with labelling.method={self.labelling.method}"
            require(source != "joint", "labelling.source", sources, source)

    def _check_loss(self) -> None:
        kind, method = self.loss.kind, self.labelling.method
        if kind == "cross_entropy":
            given = f"{', '.join(name for name in LABELLING_METHODS if name != 'none')} with loss.kind=cross_entropy"
            require(method != "none", "labelling.method", f"{given}, which learns labels", method)
            return
        require(method == "none", "labelling.method", f"none with loss.kind={kind}, which learns no labels", method)
        sources = f"joint, own or concat with loss.kind={kind}, for which nobody labels"
        require(self.labelling.source in ("joint", "own", "concat"), "labelling.source", sources, self.labelling.source)
        others = [name for name, of_kind in self.kinds.items() if of_kind != "features"]
        if kind == "neighbours" and others:
            raise ValueError(
                f"loss.kind=neighbours needs modalities of kind features, whose nearest clips are known, got "
                f"{', '.join(others)}; `selavi embed` makes vectors of media (docs/features.md)"
            )
        if kind == "mutual_information" and not others and any(len(one.learners) == 1 for one in self.label_sets):
            views = [self.section(name) for name in self.kinds]
            require(
                all(one.noise > 0 or one.drop > 0 for one in views),
                "features.noise",
                "above 0, or features.drop, where loss.kind=mutual_information compares two views of a clip, which "
                "would be equal",
                min(one.noise for one in views),
            )

    @property
    def kinds(self) -> dict[str, str]:
        """Name -> kind of each modality."""
        modalities = self.modalities
        return modalities if isinstance(modalities, dict) else dict(zip(modalities, modalities, strict=True))

    def section(self, name: str) -> Any:
        """The section of settings of this name, or that of the modality of this name."""
        return self.own[name] if name in self.own else getattr(self, section_of(name))

    def seen_by(self, name: str) -> "Config":
        """The same settings with those of a modality in the section of its kind, where what reads a kind looks."""
        if name not in self.own:
            return self
        view = copy(self)
        setattr(view, section_of(self.kinds[name]), self.own[name])
        return view

    @property
    def is_fused(self) -> bool:
        """Whether heads read the concatenated features."""
        return self.labelling.source == "concat" and self.labelling_method.reads_scores

    @property
    def branches(self) -> list[str]:
        """What has heads of its own: each modality, or `concat` where heads read the concatenated features."""
        return ["concat"] if self.is_fused else list(self.kinds)

    @property
    def labelling_method(self) -> MethodTraits:
        """What the labelling method reads and promises."""
        return LABELLING_METHODS[self.labelling.method]

    @property
    def label_sets(self) -> tuple[LabelSet, ...]:
        """Who labels and who learns: one set that serves all branches, or under own and cross one for each modality."""
        return make_label_sets(self.labelling.source, self.branches, self.heads.num_heads)

    @property
    def has_comparable_heads(self) -> bool:
        """Whether the clusters of all heads are equally easy to find: those of different modalities are not."""
        return len(self.label_sets) == 1

    @property
    def num_label_heads(self) -> int:
        """Columns of the label bank: `heads.num_heads` for each label set."""
        return sum(len(label_set.learning_columns) for label_set in self.label_sets)

    def head_of_column(self, column: int) -> tuple[tuple[str, ...], int]:
        """The branches whose heads learn a column of the label bank and vote together, and the number of their head."""
        label_set = next(label_set for label_set in self.label_sets if column in label_set.voting_columns)
        return label_set.voters, label_set.voting_columns.index(column)

    @property
    def branch_weights(self) -> dict[str, float]:
        """Weight of each branch's vote."""
        return {name: self.labelling.weights.get(name, 1.0) for name in self.branches}

    @property
    def plan_sharpness(self) -> float:
        """Exponent on the scores in the rows from which a label's confidence is read; 1 where there is no plan."""
        return self.labelling.sharpness if self.labelling_method.has_plan else 1.0
