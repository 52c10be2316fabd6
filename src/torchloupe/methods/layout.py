"""UMAP's layout epoch by epoch, so that its progress is told and a killed run goes on where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
from umap import UMAP
from umap.layouts import _get_optimize_layout_euclidean_single_epoch_fn as compiled_epoch
from umap.umap_ import make_epochs_per_sample

from torchloupe.methods.kept import Kept, Progress


class Drawn(np.random.RandomState):
    """A random state that remembers the integers that it drew last."""

    last: np.ndarray

    def randint(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's."""
        self.last = super().randint(*args, **kwargs)
        return self.last


class StepwiseUMAP(UMAP):
    """umap-learn's UMAP whose layout is kept from time to time: killed or not, the map is the same to the last bit.

    `_fit_embed_data` is the place that umap-learn offers to subclasses. Its first places come from umap-learn (a layout
    of 0 epochs), its epochs are umap-learn's compiled function; what one epoch hands to the next is at hand here: places,
    when each edge and its negative samples are due, the random state. random_state must be a Drawn.
    densMAP, other output metrics and a list of epochs keep umap-learn's own loop, and begin their layout again.
    Differs: with more epochs than umap-learn's default, weak edges take no part in the first places.
    """

    kept: Kept
    progress: Progress
    graph_: Any

    def _fit_embed_data(self, X: Any, n_epochs: Any, init: Any, random_state: Any, **kwargs: Any) -> Any:  # noqa: N803
        plain = self.output_metric in ("euclidean", "l2") and not self.densmap and not self.output_dens
        if not plain or isinstance(n_epochs, list):
            return super()._fit_embed_data(X, n_epochs, init, random_state, **kwargs)
        usual = 500 if self.graph_.shape[0] <= 10_000 else 200
        epochs = usual if n_epochs is None else n_epochs
        whole, edges = self.graph_, self.graph_.tocoo()
        edges.sum_duplicates()
        edges.data[edges.data < edges.data.max() / (epochs if epochs > 10 else usual)] = 0
        edges.eliminate_zeros()
        between = make_epochs_per_sample(edges.data, epochs)
        state = self.kept.load("layout")
        if state is None:
            self.progress("first places", 0, 1)
            self.graph_ = edges
            places = super()._fit_embed_data(X, 0, init, random_state)[0]
            self.graph_ = whole
            seeds = np.full((len(places), 3), random_state.last, np.int64)
            state = {
                "done": np.array(0),
                "places": places,
                "random": seeds + places[:, 0].astype(np.float64).view(np.int64)[:, None],
                "due": between.copy(),
                "negatives_due": between / self.negative_sample_rate,
            }
            self.kept.save("layout", **state)
        for epoch in range(int(state["done"]), epochs):
            self._epoch(state, edges, between, epoch, self._initial_alpha * (1 - max(epoch - 1, 0) / epochs))
            state["done"] = np.array(epoch + 1)
            self.progress("UMAP", epoch + 1, epochs)
            if self.kept.due():
                self.kept.save("layout", **state)
        return state["places"], {}

    def _epoch(self, state: dict[str, np.ndarray], edges: Any, between: np.ndarray, epoch: int, rate: float) -> None:
        """One epoch by umap-learn's compiled function, in place."""
        nothing = np.zeros(1, np.float32)
        compiled_epoch(False)(
            state["places"],
            state["places"],
            edges.row,
            edges.col,
            len(state["places"]),
            between,
            self._a,
            self._b,
            state["random"],
            self.repulsion_strength,
            state["places"].shape[1],
            True,
            rate,
            between / self.negative_sample_rate,
            state["negatives_due"],
            state["due"],
            epoch,
            False,
            nothing,
            nothing,
            *(0, 0, 0, 0),
            nothing,
            nothing,
            0,
        )
