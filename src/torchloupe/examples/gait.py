"""A small GaitSet trained on walkers, and its Rank-1 table: the model that `loupe demo gait` explains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.examples.walkers import SIZE, VIEWS, walk, write_tree
from torchloupe.gait import embed_gallery, explain_walk, record
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.networks.gait.gaitset import GaitSet
from torchloupe.render.colour import resize
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
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Crowd:
    """Walks in memory: frames (n, t, 64, 44) uint8; people, conditions and views, one a walk."""

    frames: Tensor
    people: np.ndarray
    conditions: np.ndarray
    views: np.ndarray

    @classmethod
    def of(
        cls, people: Iterable[int], conditions: Sequence[str], *, frames: int, seed: int, views: Sequence[str] = VIEWS
    ) -> Crowd:
        """Every person under every condition from every view."""
        made = [(person, condition, view) for person in people for condition in conditions for view in views]
        cut = slice(CUT, SIZE - CUT)
        arrays = [
            walk(person, condition, view, frames=frames, seed=seed).silhouettes[..., cut]
            for person, condition, view in made
        ]
        who, how, where = (np.array(part) for part in zip(*made, strict=True))
        return cls(torch.from_numpy(np.stack(arrays)), who, how, where)


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


def rank1(embeddings: Tensor, crowd: Crowd) -> dict[str, np.ndarray]:
    """Rank-1 by the CASIA-B protocol: 'NM', 'BG', 'CL' -> (11,) by probe view, mean over the other gallery views.

    Source: Yu et al. 2006, A Framework for Evaluating the Effect of View Angle, Clothing and Carrying Condition on Gait
    Recognition, ICPR; the averages of Wu et al. 2017, TPAMI.
    """
    found = {}
    flat = embeddings.permute(2, 0, 1)
    shelf = {view: np.flatnonzero(np.isin(crowd.conditions, GALLERY) & (crowd.views == view)) for view in VIEWS}
    for name, conditions in PROBES.items():
        table = np.full((len(VIEWS), len(VIEWS)), np.nan)
        for i, view in enumerate(VIEWS):
            asked = np.flatnonzero(np.isin(crowd.conditions, conditions) & (crowd.views == view))
            for j, other in enumerate(VIEWS):
                if i != j:
                    near = torch.cdist(flat[:, asked], flat[:, shelf[other]]).mean(0).argmin(1).numpy()
                    table[i, j] = (crowd.people[shelf[other][near]] == crowd.people[asked]).mean()
        found[name] = np.nanmean(table, 1)
    return found


def table_text(found: Mapping[str, np.ndarray], people: int) -> str:
    """The Rank-1 table as lines of text, in percent."""
    lines = ["probe   " + "".join(f"{view:>6}" for view in VIEWS) + "    mean"]
    for name, values in found.items():
        lines.append(f"{name:<8}" + "".join(f"{100 * value:6.1f}" for value in values) + f"{100 * values.mean():8.1f}")
    return "\n".join([*lines, f"Rank-1 in percent, other views only; chance {100 / people:.1f}"])


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
