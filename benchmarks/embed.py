"""Projections against the libraries called plainly: wall and processor seconds, peak memory, what is kept.

python benchmarks/embed.py 1000 10000 50000 200000      every method in turn at each size, each in a process of its own
python benchmarks/embed.py 1000000 --methods loupe-tsne loupe-umap
python benchmarks/embed.py --forward                   how much of a model's own rate embedding reaches

Data: 40 clusters, each a curved 5-dimensional sheet in 256 dimensions, float32. Numbers as in methods/arrangement.py.
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


def one(method: str, total: int, cores: int) -> dict[str, float | str]:
    from torchloupe.methods.arrangement import arrangement

    warnings.simplefilter("ignore")
    feats, labels = curved(total)
    wall, cpu = time.perf_counter(), time.process_time()
    coords = METHODS[method](feats, cores)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    begun = time.process_time()
    found = arrangement(feats, coords, labels)
    return {
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
    parser.add_argument("--forward", action="store_true", help="the rate of embedding over that of plain forwards")
    parser.add_argument("--one", action="store_true", help="run one method at one size in this process")
    asked = parser.parse_args()
    if asked.forward:
        print(json.dumps({"embedding over plain forward": forward_rate()}))
        return
    if asked.one:
        print(json.dumps(one(asked.methods[0], asked.sizes[0], asked.cores)))
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
