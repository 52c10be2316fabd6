"""Projections against the libraries called plainly: wall and processor seconds, peak memory, what is kept.

python benchmarks/embed.py 1000 10000 50000 200000      every method in turn at each size, each in a process of its own
python benchmarks/embed.py 1000000 --methods loupe-tsne loupe-umap
python benchmarks/embed.py --forward                   how much of a model's own rate embedding reaches

Data: 40 clusters, each a curved 5-dimensional sheet in 256 dimensions, float32; --data for others. Numbers as in methods/arrangement.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from measure import cpu_times

SEED = 1597
MOST = {"sklearn-tsne": 50_000, "opentsne": 200_000, "umap": 200_000}


def curved(total: int, width: int = 256, clusters: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(total, width) float32 and the cluster of every row."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, clusters, total)
    feats = np.empty((total, width), np.float32)
    for cluster in range(clusters):
        rows = np.flatnonzero(labels == cluster)
        sheet = random.uniform(-1, 1, (len(rows), 5)).astype(np.float32)
        waves, bends = (random.normal(size=(2, 5, width)) / 5**0.5).astype(np.float32)
        noise = random.standard_normal((len(rows), width), np.float32)
        feats[rows] = random.normal(size=width) + np.sin(2 * sheet @ waves) + (sheet @ bends) ** 2 + 0.1 * noise
    return feats, labels


def unequal(total: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve Gaussian clusters in 50 dimensions, the largest a thousand times the smallest, of spreads from 0.2 to 3."""
    random = np.random.default_rng(1)
    share = np.geomspace(1, 1000, 12)
    labels = np.sort(random.choice(12, total, p=share / share.sum()))
    spread = np.linspace(3, 0.2, 12)[labels, None]
    centres = 12 * random.normal(size=(12, 50))
    return (centres[labels] + spread * random.normal(size=(total, 50))).astype(np.float32), labels


def far(total: int) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian cloud in 12 dimensions, half of it moved by 20,000 along one of them."""
    random = np.random.default_rng(2)
    feats, labels = random.normal(size=(total, 12)), random.integers(0, 2, total)
    feats[:, 3] += 20_000 * labels
    return feats.astype(np.float32), labels


def noise(total: int) -> tuple[np.ndarray, np.ndarray]:
    """One Gaussian cloud in 256 dimensions: no structure at all."""
    random = np.random.default_rng(3)
    return random.standard_normal((total, 256), np.float32), random.integers(0, 2, total)


def repeated(total: int) -> tuple[np.ndarray, np.ndarray]:
    """Twenty curved sheets; of every twentieth row there are 120 copies, more than t-SNE asks for neighbours."""
    feats, labels = curved(total, 64, 20)
    rows = np.arange(total)
    copied = total // 2
    rows[:copied] = np.repeat(np.arange(0, total, 20), 120)[:copied]
    return feats[rows], labels[rows]


def hierarchy(total: int) -> tuple[np.ndarray, np.ndarray]:
    """128 dimensions: 5 kinds of 5 families of 8 members each, every level half as wide as the one above."""
    random = np.random.default_rng(4)
    levels = [random.normal(size=(5, 128)), random.normal(size=(25, 128)) / 2, random.normal(size=(200, 128)) / 4]
    labels = random.integers(0, 200, total)
    places = levels[0][labels // 40] + levels[1][labels // 8] + levels[2][labels]
    return (places + random.normal(size=(total, 128)) / 10).astype(np.float32), labels


DATA: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "sheets": curved,
    "unequal": unequal,
    "far": far,
    "noise": noise,
    "repeated": repeated,
    "hierarchy": hierarchy,
}


def loupe(method: str) -> Callable[[np.ndarray, int], np.ndarray]:
    def run(feats: np.ndarray, cores: int) -> np.ndarray:
        from torchloupe.methods.project import project
        from torchloupe.methods.rows import prepare

        return project(prepare(feats), method, seed=SEED, jobs=cores).coords

    return run


def opentsne(feats: np.ndarray, cores: int) -> np.ndarray:
    import openTSNE

    return np.asarray(openTSNE.TSNE(random_state=SEED, n_jobs=cores).fit(feats))


def umap(feats: np.ndarray, _cores: int) -> np.ndarray:
    from umap import UMAP

    return UMAP(random_state=SEED).fit_transform(feats)


def sklearn_tsne(feats: np.ndarray, cores: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(random_state=SEED, n_jobs=cores).fit_transform(feats)


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "loupe": loupe("auto"),
    "opentsne": opentsne,
    "umap": umap,
    "sklearn-tsne": sklearn_tsne,
    "loupe-tsne": loupe("tsne"),
    "loupe-umap": loupe("umap"),
    "loupe-localmap": loupe("localmap"),
}


def forward_rate(rounds: int = 12) -> dict[str, float]:
    """Processor seconds of plain forwards over those of embedding the same batches, a middle layer and the output."""
    import torch
    from torch import nn

    from torchloupe.methods.embed import Embedder
    from torchloupe.probe import Batch, Subject

    torch.manual_seed(0)
    blocks = [(3, 32), (32, 64), (64, 128), (128, 256)]
    body = [layer for a, b in blocks for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())]
    module = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)).eval()
    batches = [Batch(torch.randn(16, 3, 128, 128)) for _ in range(8)]
    layer, output = Embedder(Subject(module), "8"), Embedder(Subject(module), "output")

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                module(batch.x)

    found = cpu_times(
        {
            "plain": plain,
            "layer": lambda: [layer(batch) for batch in batches],
            "output": lambda: [output(batch) for batch in batches],
        },
        rounds,
    )
    return {name: round(found["plain"] / found[name], 3) for name in ("layer", "output")}


def one(method: str, total: int, cores: int, data: str) -> dict[str, float | str]:
    from torchloupe.methods.arrangement import arrangement

    warnings.simplefilter("ignore")
    feats, labels = DATA[data](total)
    wall, cpu = time.perf_counter(), time.process_time()
    coords = METHODS[method](feats, cores)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    begun = time.process_time()
    found = arrangement(feats, coords, labels)
    return {
        "data": data,
        "method": method,
        "points": total,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_gb": round(peak, 2),
        "trustworthiness": round(found.trustworthiness, 3),
        "kept": round(found.kept, 3),
        "numbers_cpu_s": round(time.process_time() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000])
    parser.add_argument("--methods", nargs="+", default=["loupe", "opentsne", "umap", "sklearn-tsne"], choices=METHODS)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", choices=list(DATA), default="sheets")
    parser.add_argument("--forward", action="store_true", help="the rate of embedding over that of plain forwards")
    parser.add_argument("--one", action="store_true", help="run one method at one size in this process")
    asked = parser.parse_args()
    if asked.forward:
        print(json.dumps({"embedding over plain forward": forward_rate()}))
        return
    if asked.one:
        print(json.dumps(one(asked.methods[0], asked.sizes[0], asked.cores, asked.data)))
        return
    for size in asked.sizes:
        for _ in range(asked.rounds):
            for method in asked.methods:
                if size > MOST.get(method, size):
                    continue
                command = [
                    sys.executable,
                    __file__,
                    str(size),
                    "--one",
                    "--methods",
                    method,
                    "--cores",
                    str(asked.cores),
                    "--data",
                    asked.data,
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                print(
                    done.stdout.strip().splitlines()[-1]
                    if done.returncode == 0
                    else f"{method} {size}: {done.stderr[-300:]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
