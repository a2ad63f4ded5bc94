"""Can heads on single places of the picture be trained to point at things?  Small trials of many ways.

    python benchmarks/local.py --demo data/demo     what is missing of TRIES; a minute or two of one core each
    python benchmarks/local.py --page               write docs/results/local.md again

A video encoder of the demo's size is trained alone, on the true classes in place of clusters (which on the demo set
agree with them), with heads on its features and heads on the maps of one of its stages.  The logits of the latter are
pooled over places by a soft maximum, so that one place must carry the evidence.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import RESULTS, ROOT, machine, markdown_table, show_page
from evidence import centre, frame_difference, truths
from torch import Tensor, nn

from datamodules.clips import prepare_data
from datamodules.index.manifest import select_split, usable
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from datamodules.synthetic import CLASSES
from selavi.atomic import write_text
from selavi.augment import Augment
from selavi.augment.draws import named
from selavi.batch import NUM_DRAWS
from selavi.config import load_config
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.heads import make_heads
from selavi.localisation.contrast import MIRRORS
from selavi.localisation.evidence import enlarge
from selavi.scores.boxes import pointing

WIDTH, DEPTH, HEADS, BATCH, RATE, EPOCHS, VIEWS = 8, 10, 2, 32, 0.1, 8, 4
EACH, MEAN, WINDOW = "each picture", "the mean picture", "the window"
DISTANT = "each picture, by distance"
CONTRAST = "each picture, by contrast"
LARGEST, MEAN_OF_ALL = "max", "mean"
TRIES: list[dict[str, Any]] = [
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 0},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 1},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": WINDOW, "seed": 0},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": WINDOW, "seed": 1},
    {"stage": 4, "hidden": 0, "r": 4, "pooled": MEAN, "seed": 0},
    {"stage": 2, "hidden": 64, "r": 4, "pooled": EACH, "seed": 0},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 1, "centred": True},
    {"stage": 1, "hidden": 64, "r": 1, "pooled": EACH, "seed": 0},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 0, "normalised": True},
    {"stage": 1, "hidden": 64, "r": 1, "pooled": EACH, "seed": 1},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 1, "normalised": True},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 2, "normalised": True},
    {"stage": 1, "hidden": 64, "r": 0.3, "pooled": EACH, "seed": 0},
    {"stage": 1, "hidden": 64, "r": 0.3, "pooled": EACH, "seed": 1},
    {"stage": 1, "hidden": 64, "r": 1, "pooled": EACH, "seed": 2},
    {"stage": 1, "hidden": 64, "r": 1, "pooled": EACH, "seed": 0, "normalised": True},
    {"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": 1, "sparse": 0.3},
    {"stage": 1, "hidden": 64, "r": LARGEST, "pooled": WINDOW, "seed": 0},
    {"stage": 3, "hidden": 0, "r": 4, "pooled": MEAN, "seed": 0},
    {"stage": 1, "hidden": 0, "r": 4, "pooled": MEAN, "seed": 0},
    *({"stage": 1, "hidden": 64, "r": 4, "pooled": EACH, "seed": seed, "contrasted": True} for seed in range(3)),
    *(
        {"stage": 1, "hidden": 64, "r": r, "pooled": pooled, "seed": seed, "contrasted": True, "detached": True}
        for r, pooled in ((4, EACH), (MEAN_OF_ALL, DISTANT))
        for seed in range(3)
    ),
    *(
        {"stage": stage, "hidden": 64, "r": MEAN_OF_ALL, "pooled": CONTRAST, "seed": seed}
        for stage in (1, 2)
        for seed in range(3)
    ),
]
"""Most telling first.  centred: the mean over places is taken off each class's logits before they are pooled; sparse:
weight of the mean absolute logit, so that a place without evidence says nothing; normalised: each class's logits have
mean 0 and deviation 1 over the places of a batch, so that none is what most places say; contrasted: the heads read by
how much a place differs from the picture's median place, and have no bias, so that what is like most of the picture
says nothing; detached: the encoder does not learn from these heads."""
PRIORS = {"centre": centre, "frame difference": frame_difference}


class Network(nn.Module):
    """The demo's video encoder, heads on its features, and heads on the maps of one stage."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        stage, hidden = settings["stage"], settings["hidden"]
        self.contrasted, self.detached = settings.get("contrasted", False), settings.get("detached", False)
        self.encoder = R2Plus1D(WIDTH, DEPTH)
        channels = WIDTH << (stage - 1)
        self.stage = stage
        self.heads = make_heads("mlp", HEADS, self.encoder.num_features, len(CLASSES), 0.0)
        first: list[nn.Module] = []
        if hidden and self.contrasted:
            first = [nn.Conv3d(channels, hidden, 1, bias=False), nn.ReLU()]
        elif hidden:
            first = [nn.Conv3d(channels, hidden, 1), nn.BatchNorm3d(hidden), nn.ReLU()]
        outputs = HEADS * len(CLASSES)
        last = [nn.BatchNorm3d(outputs, affine=False)] if settings.get("normalised") else []
        self.local = nn.Sequential(*first, nn.Conv3d(hidden or channels, outputs, 1, bias=not self.contrasted), *last)

    @torch.no_grad()
    def contrast(self, clips: Tensor, mirrors: Sequence[tuple[int, ...]] = ((),)) -> Tensor:
        """(B, 3, T, h, w) -> (B, T, h', w') on the places of stage 1, whose sum over a picture is 1.

        As selavi/localisation/contrast.py, of the encoder as it is now; without `mirrors` a frame is looked at once.
        """
        was_training = self.training
        self.eval()
        frames = clips.transpose(1, 2).flatten(0, 1)[:, :, None]
        total: Tensor | float = 0.0
        for axes in mirrors:
            turned = frames.flip(axes).contiguous(memory_format=torch.channels_last_3d)
            fine = self.encoder.layer1(self.encoder.stem(turned))
            of_fine, of_coarse = (_distances(x[:, :, 0]).flip(axes) for x in (fine, self.encoder.layer2(fine)))
            of_coarse = F.interpolate(of_coarse[:, None], size=of_fine.shape[1:], mode="bilinear")[:, 0]
            total = total + (of_fine * of_coarse).sqrt()
        assert isinstance(total, Tensor)
        self.train(was_training)
        return (total / total.sum((1, 2), keepdim=True)).unflatten(0, (len(clips), -1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, T, h, w) -> (H, B, K), (B, H, K, T', h', w'), and distances (B, T', h', w')."""
        x = self.encoder.stem(x.contiguous(memory_format=torch.channels_last_3d))
        for number, name in enumerate(self.encoder.stages, 1):
            x = self.encoder.get_submodule(name)(x)
            if number == self.stage:
                places = x.detach() if self.detached else x
                contrasts = places - median_place(places)
                local = self.local(to_unit(contrasts) if self.contrasted else places)
                distances = contrasts.norm(dim=1)
        return self.heads(x.mean((2, 3, 4))), local.unflatten(1, (HEADS, len(CLASSES))), distances


def median_place(x: Tensor) -> Tensor:
    """(B, C, T, h, w) -> (B, C, T, 1, 1): each channel's median over the places of a picture."""
    return x.flatten(3).median(3).values[..., None, None]


def _distances(places: Tensor) -> Tensor:
    """(n, C, h, w) -> (n, h, w): how far each place lies from the median place, mean 1 in a picture."""
    distances = smooth((places - median_place(places[:, :, None])[:, :, 0]).norm(dim=1)[:, None])[:, 0]
    return distances / (distances.mean((1, 2), keepdim=True) + 1e-6)


def smooth(maps: Tensor) -> Tensor:
    """(B, T, h, w) -> the same: the mean over 3 x 3 places."""
    return F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)


def on_places_of(maps: Tensor, stage: int) -> Tensor:
    """Maps (B, T, h, w) of stage 1 on the places of stage 1 or 2, whose pictures are every second one."""
    return maps if stage == 1 else F.avg_pool2d(maps, 2)[:, ::2] * 4


def to_unit(x: Tensor) -> Tensor:
    """(B, C, T, h, w) -> the same, with a mean square of 1 in each picture."""
    return x / (x.pow(2).mean((1, 3, 4), keepdim=True) + 1e-6).sqrt()


def pool(logits: Tensor, distances: Tensor, r: float | str, pooled: str) -> Tensor:
    """(B, H, K, T, h, w), (B, T, h, w) -> (B, H, K): a soft maximum, or the mean by distance, as `pooled` says."""

    def soft(values: Tensor, axes: tuple[int, ...]) -> Tensor:
        if isinstance(r, str):
            return values.amax(axes)
        return (torch.logsumexp(r * values, axes) - math.log(math.prod(values.shape[axis] for axis in axes))) / r

    if pooled in (DISTANT, CONTRAST):
        weights = distances / (distances.sum((2, 3), keepdim=True) + 1e-6)
        return (logits * weights[:, None, None]).sum((4, 5)).mean(3)
    if pooled == WINDOW:
        return soft(logits, (3, 4, 5))
    return soft(logits.mean(3), (3, 4)) if pooled == MEAN else soft(logits, (4, 5)).mean(3)


class Clips:
    """The demo set, decoded: VIEWS passes over the training clips, and the test clips with what is drawn where."""

    def __init__(self, demo: Path) -> None:
        config = load_config(ROOT / "configs" / "demo.yaml", [f"data.root={demo}"])
        manifest, *_ = prepare_data(config)
        loaders = ClipLoaders(config, manifest, open_media(config, manifest))
        self.augment = Augment(config).modalities["video"]
        rows = usable(select_split(manifest, "train"))
        self.classes = torch.tensor([CLASSES.index(label) for label in rows["label"].to_pylist()])
        loader = loaders.training_loader(rows)
        self.views = [list(loader) for _ in range(VIEWS)]
        loader, rows = loaders.evaluation_loader("test")
        labels = rows["label"].to_pylist()
        whole = Augment(config)
        self.truths: dict[str, list[np.ndarray]] = {"drawn": [], "moving": []}
        makers = {name: truths(config, manifest, rows, name == "moving") for name in self.truths}
        inputs, numbers = [], []
        for batch in loader:
            plain = whole(batch, random=False)
            for name, make in makers.items():
                self.truths[name] += list(make(batch, plain)["video"])
            inputs.append(plain["video"])
            numbers += batch.index.tolist()
        self.inputs = torch.cat(inputs)
        self.test_classes = torch.tensor([CLASSES.index(labels[number]) for number in numbers])

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented clips and their classes."""
        for epoch in range(EPOCHS):
            view = self.views[epoch % VIEWS]
            index = torch.cat([batch.index for batch in view])
            video = torch.cat([batch.inputs["video"] for batch in view])
            for rows in torch.randperm(len(index), generator=generator).split(BATCH):
                if len(rows) == BATCH:
                    draws = named(torch.rand(BATCH, NUM_DRAWS, generator=generator), self.augment.draws)
                    yield self.augment.random(video[rows], draws), self.classes[index[rows]]

    def mixtures(self) -> Tensor:
        """(B, 3, T, h, w): four scenes in one picture, the clip's own in quarter `row % 4`, other looks beside."""
        looks = [CLASSES[number].partition("_")[0] for number in self.test_classes.tolist()]
        halved = F.avg_pool3d(self.inputs, (1, 2, 2))
        order = torch.randperm(len(looks), generator=torch.Generator().manual_seed(0)).tolist()
        mixed = []
        for row, look in enumerate(looks):
            by_look = {looks[other]: other for other in order if looks[other] != look}
            scenes = [halved[other] for other in list(by_look.values())[:3]]
            scenes.insert(row % 4, halved[row])
            mixed.append(torch.cat([torch.cat(scenes[:2], 3), torch.cat(scenes[2:], 3)], 2))
            order = order[1:] + order[:1]
        return torch.stack(mixed)

    def share_hit(self, maps: Tensor) -> list[float]:
        """Of the test clips, those whose map (B, T, h, w) is largest on anything drawn, and on what moves."""
        size = self.truths["drawn"][0].shape
        fine = enlarge(maps.numpy(), self.inputs.shape[2:], size).reshape(len(maps), -1)
        shares = []
        for truth in self.truths.values():
            hits = [pointing(values, one.ravel()) for values, one in zip(fine, truth, strict=True) if one.any()]
            shares.append(round(float(np.mean(hits)), 3))
        return shares


def attempt(clips: Clips, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train one network and read its maps in two ways."""
    torch.manual_seed(settings["seed"])
    generator = torch.Generator().manual_seed(settings["seed"])
    network = Network(settings)
    optimiser = torch.optim.SGD(network.parameters(), RATE, momentum=0.9, weight_decay=1e-5)
    an_epoch = len(clips.classes) // BATCH
    steps = EPOCHS * an_epoch
    for step, (video, classes) in enumerate(clips.batches(generator)):
        rate = min(1, (step + 1) / an_epoch) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = RATE * rate
        logits, local, distances = network(video)
        targets = classes.repeat(HEADS)
        if settings["pooled"] == CONTRAST:
            distances = on_places_of(network.contrast(video), settings["stage"])
        if settings.get("centred"):
            local = local - local.mean((4, 5), keepdim=True)
        pooled = pool(local, distances, settings["r"], settings["pooled"]).transpose(0, 1)
        loss = F.cross_entropy(logits.flatten(0, 1), targets) + F.cross_entropy(pooled.flatten(0, 1), targets)
        loss = loss + settings.get("sparse", 0.0) * (local - local.mean(2, keepdim=True)).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        local = torch.cat([network(part)[1] for part in clips.inputs.split(60)])
    own = torch.arange(len(local)), slice(None), clips.test_classes
    logit = (local - local.mean(2, keepdim=True))[own].mean(1)
    said = local.log_softmax(2)
    everywhere = said.exp().mean((3, 4, 5), keepdim=True).log()
    information = (said.exp() * (said - everywhere)).sum(2).mean(1)
    hits = {"logit": clips.share_hit(logit), "information": clips.share_hit(smooth(information))}
    if settings["pooled"] != CONTRAST:
        return hits
    contrast = [on_places_of(network.contrast(part, MIRRORS), settings["stage"]) for part in clips.inputs.split(60)]
    probability = smooth(local.softmax(2)[own].mean(1))
    with torch.no_grad():
        mixed = torch.cat([network(part)[1] for part in clips.mixtures().split(60)])
    hits["weighted"] = clips.share_hit(torch.cat(contrast) * probability)
    hits["right quarter"] = share_in_own_quarter(mixed.softmax(2)[own].mean((1, 2)))
    return hits


def share_in_own_quarter(maps: Tensor) -> float:
    """Of maps (B, h, w) of mixtures, those that have most of them in the quarter of the clip's own scene."""
    quarters = F.adaptive_avg_pool2d(maps, 2).flatten(1)
    return round(float((quarters.argmax(1) == torch.arange(len(maps)) % 4).float().mean()), 3)


def page(result: Mapping[str, Any]) -> str:
    """docs/results/local.md."""
    rows = []
    for entry in result["tries"]:
        more = [name for name in ("centred", "sparse", "normalised", "contrasted", "detached") if entry.get(name)]
        about = [str(entry[name]) for name in ("stage", "places", "hidden", "r", "pooled", "seed")]
        weighted = _pair(entry["weighted"]) if "weighted" in entry else ""
        quarter = f"{entry['right quarter']:.2f}" if "right quarter" in entry else ""
        rows.append([*about, ", ".join(more), _pair(entry["logit"]), _pair(entry["information"]), weighted, quarter])
    rows += [[f"no model: {name}", *[""] * 6, _pair(pair), *[""] * 3] for name, pair in result["priors"].items()]
    header = ["stage", "places a side", "hidden", "r", "pooled over", "seed", "", "class's logit", "information"]
    header += ["with contrast", "mixtures"]
    found = result["machine"]
    return f"""# Heads on single places of the picture

Can maps be trained to point at things? A head on each place of a map, whose logits are pooled by a soft maximum,
(1 / r) ln mean exp(r z), must find the class somewhere. Trials on the demo set: a video encoder of its size, trained
alone for {EPOCHS} epochs on the true classes, two heads. *Places*: along each side of the map that is read; *hidden*:
numbers of a layer between the map and the heads; pooled over the places of *each picture* (and then the mean), of *the
mean picture*, or of all pictures of *the window*. *Centred*: each class's mean over places is taken off first;
*sparse*: places are charged for what they say. *Contrasted*: heads without a bias read how a place differs from the
picture's median place, so that they say nothing where a place is like most of the picture; *by distance*: the mean over
places, each by how much it differs. *Detached*: the encoder does not learn from these heads. *By contrast*: the mean
over places, each by how much single frames, looked at alone, differ there from the rest of the picture in the maps of
two stages; without gradient.

Figures: share of the {result["clips"]} test clips whose map is largest **on anything drawn / on what moves**. *Class's
logit*: that of the clip's class less the mean of all; *information*: the Kullback-Leibler divergence of what a place
says from what all places say together, mean over 3 x 3 places. *With contrast*: the probability of the class, mean
over 3 x 3 places, times the contrast. *Mixtures*: share of pictures of four scenes in which most of the probability of
one scene's class lies in its quarter (chance 0.25).

{markdown_table(header, rows)}

{_conclusion(result)}

`loss.local`, a setting that would train such heads in every run, was therefore left out. What points at things without
being trained to, in every run that was tried: [contrast](contrast.md).

Measured on {found["processor"]}, {found["cores"]} cores. By `python benchmarks/local.py`.
"""


def _conclusion(result: Mapping[str, Any]) -> str:
    """What the table says: the same settings with other seeds differ by more than settings do."""
    by_setting: dict[str, list[float]] = {}
    by_contrast: dict[int, list[float]] = {}
    figures = ("seed", "places", "logit", "information", "weighted", "right quarter")
    for entry in result["tries"]:
        if entry["pooled"] == CONTRAST:
            by_contrast.setdefault(entry["stage"], []).append(entry["logit"][1])
            continue
        about = {name: entry[name] for name in entry if name not in figures}
        by_setting.setdefault(json.dumps(about), []).append(entry["information"][1])
    spans = [f"{min(values):.2f} to {max(values):.2f}" for values in by_setting.values() if len(values) > 1]
    moving = result["priors"]["frame difference"][1]
    return (
        "With another seed the same settings point at what moves in quite another share of the clips: "
        f"{', '.join(spans)} in the settings that were tried with several. The change from frame to frame does in "
        f"{moving:.2f}. A guess was that the heads say one class wherever there is nothing, which class depends on the "
        "seed, and that clips of that class then have no map. Contrasted heads cannot do that: "
        f"{_span(result, detached=False)}, and {_span(result, detached=True)} where the encoder does not learn from "
        "them. So it is not that alone.\n\n"
        "Where places are averaged by contrast, what the heads say of the class points at what moves in "
        f"{_least_and_most(by_contrast.get(1, []))} with places of stage 1, above the change from frame to frame with "
        f"every seed, and in {_least_and_most(by_contrast.get(2, []))} with the coarser ones of stage 2. But "
        "then it is contrast that points, which needs no training and no single frames to be encoded in each step; of "
        "several things in a picture, windows find the right one more often ([mixtures.md](mixtures.md))."
    )


def _least_and_most(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _span(result: Mapping[str, Any], *, detached: bool) -> str:
    """Of contrasted heads: from the worst to the best at what moves."""
    values = [
        entry["information"][1]
        for entry in result["tries"]
        if entry.get("contrasted") and bool(entry.get("detached")) == detached
    ]
    return _least_and_most(values)


def _pair(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} / {values[1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="folder of the demo set (make demo)")
    parser.add_argument("--most", type=int, default=len(TRIES), metavar="N", help="end after so many tries")
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    path = RESULTS / "local.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tries": []}
    if not args.page:
        torch.set_num_threads(1)
        clips = Clips(args.demo.absolute())
        result |= {"machine": machine(), "clips": len(clips.inputs)}
        result["priors"] = {name: clips.share_hit(prior({"video": clips.inputs})) for name, prior in PRIORS.items()}
        missing = [one for one in TRIES if not any(one.items() <= entry.items() for entry in result["tries"])]
        for settings in missing[: args.most]:
            places = clips.inputs.shape[3] >> settings["stage"]
            result["tries"].append({**settings, "places": places, **attempt(clips, settings)})
            print(json.dumps(result["tries"][-1]), flush=True)
            write_text(path, json.dumps(result, indent=1) + "\n")
    show_page("local", page(result), is_trial=False)


if __name__ == "__main__":
    main()
