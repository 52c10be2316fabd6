"""A small GaitSet trained on walkers, and its Rank-1 table: the model that `loupe demo gait` explains."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.data.bands import BANDS
from torchloupe.errors import LoupeWarning
from torchloupe.examples.walkers import SIZE, VIEWS, walk, write_tree
from torchloupe.gait import embed_gallery, explain_walk, record
from torchloupe.kinds.evaluation import Evaluation
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.metrics.retrieval import PROTOCOLS, Walks, evaluate
from torchloupe.networks.gait.gaitset import GaitSet
from torchloupe.render.colour import resize
from torchloupe.render.evaluation import aligned
from torchloupe.render.summary import draw_summary, lines
from torchloupe.runs.evaluation import evaluation
from torchloupe.runs.summary import summed
from torchloupe.sources.opengait import gait
from torchloupe.sources.sequences import sequences
from torchloupe.targets.retrieval import Nearest

BINS = (16, 8, 4, 2, 1)
CUT = 10
CONFIG = """\
data_cfg:
  dataset_name: CASIA-B
evaluator_cfg:
  metric: euc
  sampler: {sample_type: all_ordered}
  transform: [{type: BaseSilCuttingTransform}]
model_cfg:
  model: GaitSet
  in_channels: [1, 16, 32, 64]
  bin_num: [16, 8, 4, 2, 1]
  SeparateFCs: {in_channels: 64, out_channels: 64, parts_num: 62}
"""
PROBES = {"NM": ("nm-05", "nm-06"), "BG": ("bg-01", "bg-02"), "CL": ("cl-01", "cl-02")}
GALLERY = ("nm-01", "nm-02", "nm-03", "nm-04")
TRAINED_ON = ("nm-01", "nm-02", "nm-03", "bg-01", "cl-01")
# the gallery of the explained cases: few views, so that some matches are wrong
SHELF = ("036", "126")
# views of the probes that are measured with parts hidden, and whose maps are summed up
HIDDEN_VIEWS = ("054", "090", "144")
SUMMED = ("set_block2", "gl_block3")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Crowd:
    """Walks in memory: frames (n, t, 64, 44) uint8; people, conditions and views, one a walk; bags: where a bag shows."""

    frames: Tensor
    people: np.ndarray
    conditions: np.ndarray
    views: np.ndarray
    bags: Tensor

    def take(self, rows: np.ndarray) -> Crowd:
        """The walks of these rows."""
        return Crowd(*(getattr(self, name)[rows] for name in ("frames", "people", "conditions", "views", "bags")))

    def without(self, part: str) -> Crowd:
        """The same walks with a part black: a name of BANDS, or the bag where it shows."""
        frames = self.frames.clone()
        if part == "bag":
            frames[self.bags] = 0
        else:
            low, high = (round(share * frames.shape[2]) for share in BANDS[part])
            frames[:, :, low:high] = 0
        return replace(self, frames=frames)

    @classmethod
    def of(
        cls, people: Iterable[int], conditions: Sequence[str], *, frames: int, seed: int, views: Sequence[str] = VIEWS
    ) -> Crowd:
        """Every person under every condition from every view."""
        made = [(person, condition, view) for person in people for condition in conditions for view in views]
        cut = slice(CUT, SIZE - CUT)
        walks = [walk(person, condition, view, frames=frames, seed=seed) for person, condition, view in made]
        who, how, where = (np.array(part) for part in zip(*made, strict=True))
        frames_of, bags = (
            torch.from_numpy(np.stack([getattr(one, name)[..., cut] for one in walks]))
            for name in ("silhouettes", "bag")
        )
        return cls(frames_of, who, how, where, bags)


def network() -> GaitSet:
    """The GaitSet of CONFIG."""
    return GaitSet((1, 16, 32, 64), BINS, 64, 64)


def train(
    crowd: Crowd,
    *,
    steps: int,
    seconds: float,
    seed: int,
    people: int = 8,
    walks: int = 6,
    frames: int = 8,
    tell: Tell = print,
) -> GaitSet:
    """A GaitSet trained by the batch-all triplet loss, each step on people x walks sequences; at most so many seconds.

    Source of the loss: Hermans et al. 2017, In Defense of the Triplet Loss, arXiv:1703.07737.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    module = network().train()
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    of_person = {person: np.flatnonzero(crowd.people == person) for person in np.unique(crowd.people)}
    start = time.monotonic()
    for step in range(1, steps + 1):
        chosen = rng.choice(list(of_person), people, replace=False)
        index = np.concatenate([rng.choice(of_person[person], walks, replace=False) for person in chosen])
        x = crowd.frames[index][:, rng.choice(crowd.frames.shape[1], frames, replace=False)].float() / 255
        loss, wrong = triplet_loss(module(x), torch.arange(people).repeat_interleave(walks))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        spent = time.monotonic() - start
        if step % max(1, steps // 6) == 0 or spent > seconds:
            tell(f"  {spent:4.0f} s  step {step}  loss {loss.item():.3f}  triplets still wrong {100 * wrong:.0f} %")
        if spent > seconds:
            tell(f"  stopped after {seconds:.0f} s, before the {steps} steps were done: the matches may be poor")
            break
    return module.eval()


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float = 0.2) -> tuple[Tensor, float]:
    """Mean of max(0, margin + d(a, p) - d(a, n)) over the triplets and parts where it is above 0; share of those.

    embeddings (n, c, p), labels (n,).
    """
    parts = embeddings.permute(2, 0, 1)
    square = (parts[:, :, None] - parts[:, None]).square().sum(-1)
    distance = torch.sqrt(square + 1e-9)
    same = labels[:, None] == labels
    gaps = margin + distance[:, :, :, None] - distance[:, :, None, :]
    valid = (same & ~torch.eye(len(labels), dtype=torch.bool))[:, :, None] & ~same[:, None, :]
    costs = gaps.relu() * valid
    wrong = costs > 0
    return costs.sum() / wrong.sum().clamp(min=1), float(wrong.sum() / (valid.sum() * len(parts)))


@torch.no_grad()
def embedded(module: nn.Module, crowd: Crowd, batch: int = 16) -> Tensor:
    """(n, c, p)."""
    return torch.cat([module(part.float() / 255) for part in crowd.frames.split(batch)])


def walks_of(embeddings: Tensor, crowd: Crowd) -> Walks:
    """The crowd's embeddings as the protocols take them."""
    who = np.array([f"{person:03d}" for person in crowd.people.tolist()])
    names = np.array(["-".join(parts) for parts in zip(who, crowd.conditions, crowd.views, strict=True)])
    return Walks(embeddings.numpy(), names, who, crowd.conditions, crowd.views)


def measured(embeddings: Tensor, crowd: Crowd) -> Evaluation:
    """The model by the CASIA-B protocol."""
    return evaluation(walks_of(embeddings, crowd), PROTOCOLS["CASIA-B"], "euc")


def hidden(module: nn.Module, embeddings: Tensor, crowd: Crowd) -> list[str]:
    """Lines: Rank-1 of probes from HIDDEN_VIEWS, whole, and with a part of the body, or the bag, black."""
    shown = np.flatnonzero(np.isin(crowd.conditions, GALLERY) | np.isin(crowd.views, HIDDEN_VIEWS))
    some = crowd.take(shown)
    walks = walks_of(embeddings[shown], some)
    asked = np.flatnonzero(np.isin(some.conditions, sum(PROBES.values(), ())))
    rows: dict[str, list[str]] = {}
    for part in ("whole", *BANDS, "bag"):
        probes = walks.embeddings.copy()
        if part != "whole":
            probes[asked] = embedded(module, some.take(asked).without(part)).numpy()
        for one in evaluate(walks, PROTOCOLS["CASIA-B"], probes=probes):
            # each row of a table is a probe view; views without probes are no cells
            rows.setdefault(one.setting, [one.setting]).append(f"{100 * one.numbers['Rank-1']:.1f}")
    head = ["", "whole", *(f"no {part}" for part in (*BANDS, "bag"))]
    return [
        f"Rank-1 of probes from {', '.join(HIDDEN_VIEWS)} with a part of them black",
        *aligned([head, *rows.values()]),
    ]


def summed_up(config: Path, weights: Path, folder: Path, *, people: int, frames: int, seed: int) -> list[str]:
    """Lines of the summary of the maps of some walks of some strangers; its pictures lie below the folder."""
    tree = folder / "Some"
    conditions = [names[0] for names in PROBES.values()]
    write_tree(tree, range(1, 1 + people), conditions, HIDDEN_VIEWS, frames=frames, seed=seed)
    subject = gait(config, weights, device="cpu")
    shelf = sequences(folder / "Gallery")
    gallery = embed_gallery(subject, shelf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoupeWarning)  # maps that are 0 are told in the summary
        found = summed(
            explain_walk(subject, one, Nearest(gallery), SUMMED, method="layercam", exclude=("same-view",))
            for one in sequences(tree)
        )
    draw_summary(found, folder / "summary")
    return lines(found)


@dataclass(frozen=True)
class Case:
    """A probe to explain."""

    title: str
    person: int
    condition: str
    view: str


def cases(embeddings: Tensor, crowd: Crowd) -> list[Case]:
    """A right match and a wrong one with a bag, and a wrong one of any kind; fewer where the model makes no such error."""
    flat = embeddings.permute(2, 0, 1)
    shelf = np.flatnonzero((crowd.conditions == GALLERY[0]) & np.isin(crowd.views, SHELF))
    asked = np.flatnonzero(np.isin(crowd.conditions, sum(PROBES.values(), ())) & ~np.isin(crowd.views, SHELF))
    distances = torch.cdist(flat[:, asked], flat[:, shelf]).mean(0)
    near, far = distances.min(1)
    right = crowd.people[shelf[far.numpy()]] == crowd.people[asked]
    # bags show best from the side
    side = np.isin(crowd.views[asked], ("072", "090", "108"))
    bag = np.char.startswith(crowd.conditions[asked], "bg")
    mistaken = ~right & bag
    shown = mistaken & side if (mistaken & side).any() else mistaken
    wanted = {"right-bag": right & bag & side, "wrong-bag": shown, "wrong": ~right & ~bag}
    found = []
    for title, mask in wanted.items():
        if mask.any():
            i = asked[np.flatnonzero(mask)[near.numpy()[mask].argmin()]]
            found.append(Case(title, int(crowd.people[i]), str(crowd.conditions[i]), str(crowd.views[i])))
    return found


def explained(
    case: Case, config: Path, weights: Path, folder: Path, *, frames: int, seed: int, strangers: int
) -> SequenceMaps:
    """The case by way of trees and files, as a user would do it; the result is saved below the folder."""
    people = range(1, 1 + strangers)
    if not (folder / "Gallery").exists():
        write_tree(folder / "Gallery", people, GALLERY[:1], SHELF, frames=frames, seed=seed)
    write_tree(folder / "Probe", [case.person], [case.condition], [case.view], frames=frames, seed=seed)
    subject = gait(config, weights, device="cpu")
    shelf = sequences(folder / "Gallery")
    gallery = embed_gallery(subject, shelf)
    name = f"{case.person:03d}-{case.condition}-{case.view}"
    probe = next(one for one in sequences(folder / "Probe") if one.name == name)
    made = explain_walk(subject, probe, Nearest(gallery), subject.layers, method="layercam", gallery_walks=shelf)
    made.save(folder / "out" / f"{name}.npz", record(subject, made, gallery))
    return made


def on_the_bag(made: SequenceMaps, case: Case, *, frames: int, seed: int) -> list[str]:
    """Lines that tell how much of each layer's map lies on the bag where it shows; none without a bag."""
    if not case.condition.startswith("bg"):
        return []
    bag = walk(case.person, case.condition, case.view, frames=frames, seed=seed).bag[..., CUT : SIZE - CUT]
    body = made.imgs > 127
    area = (bag & body).sum() / body.sum()
    shares = {layer: share_on(made.maps[layer][0], bag) for layer in made.layers}
    told = ", ".join(f"{layer} {100 * share:.0f} %" for layer, share in shares.items())
    return [f"the bag shows on {100 * area:.0f} % of the silhouette; of the maps lie on it: {told}"]


def share_on(maps: np.ndarray, mask: np.ndarray) -> float:
    """Part of a map (t', h', w') that lies on a mask (t, h, w), the map brought to the mask's size; 0..1.

    t' is t, or 1 for a map of all frames. Only values above 0 count.
    """
    large = np.maximum(resize(maps, mask.shape[1:]), 0)
    large = np.broadcast_to(large, mask.shape) if len(maps) == 1 else large
    total = float(large.sum())
    return float((large * mask).sum()) / total if total > 0 else 0.0
