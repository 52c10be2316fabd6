"""What several commands share: the model's options, method options, progress. Light: imports nothing heavy."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.errors import BadInput
from torchloupe.render.look import Look

if TYPE_CHECKING:
    from torchloupe.probe import Subject
    from torchloupe.runs.run import Job, Summary, Work
    from torchloupe.store.results import Results

Words = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


@dataclass(frozen=True)
class Model:
    """The model and its weights.

    Attributes:
        weights: A checkpoint: safetensors or .pth, read without running code.
        device: auto, cpu, cuda, cuda:1, mps.
        ema: Take the moving average of the weights from the checkpoint.
        unsafe_load: Let the checkpoint run code while it is read. Only for files that you trust.
        classes: A file with the names of the classes: one a line, or JSON.
        size: Height and width of the input, for models that take any: 224, or 256 192.
        mean: Mean of the normalisation, on the range 0 to 1, for models that come with none.
        std: Standard deviation of the normalisation, likewise.
        cfg_options: Overrides of an OpenMMLab config: key.path=value ...
        output: Which tensor is meant of a model that returns several: a number or a key, such as 1, logits, aux.0.
        example: A sample of what the model takes, where that is no picture: .npz of arrays by the names of the forward's
            arguments, .npy, .pt; a text 'layout' in it says how it lies.
        layout: How layers lie, where you know it: 'blocks.11=n (t h w) c' ...; n samples, c channels, t times, h rows, w columns.
        layout_sizes: Lengths of axes that --layout leaves open: t=8 ...
        num_extra_tokens: Tokens before those of the picture (class, registers), instead of what is found.
        vit_like: Says what is found anyway, that tokens lie row by row; the seed's word.
    """

    weights: Path | None = None
    device: str = "auto"
    ema: Annotated[bool, Parameter(negative="")] = False
    unsafe_load: Annotated[bool, Parameter(negative="")] = False
    classes: Path | None = None
    size: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None
    mean: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None
    std: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None
    cfg_options: Words | None = None
    output: str | None = None
    example: Path | None = None
    layout: Words | None = None
    layout_sizes: Words | None = None
    num_extra_tokens: int | None = None
    vit_like: Annotated[bool, Parameter(negative="")] = False

    def words(self, spec: str) -> dict[str, Any]:
        """The spec and these options as plain data: the arguments of `sources.subject`."""
        return {
            "model": spec,
            "weights": self.weights and str(self.weights),
            "device": self.device,
            "ema": self.ema,
            "unsafe_load": self.unsafe_load,
            "classes": self.classes and str(self.classes),
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "cfg_options": pairs(self.cfg_options or (), "--cfg-options"),
            **({"output": self.output} if self.output is not None else {}),
            **({"example": str(self.example)} if self.example is not None else {}),
            **self._layouts(),
        }

    def _layouts(self) -> dict[str, Any]:
        if self.vit_like and self.num_extra_tokens is None and not self.layout:
            say("--vit-like: how tokens lie is found anyway; --num-extra-tokens and --layout say otherwise")
        layouts = dict(word.partition("=")[::2] for word in self.layout or ())
        if "" in layouts.values() or "" in layouts:
            raise BadInput(
                f"--layout {' '.join(self.layout or ())!r}: expected LAYER=PATTERN, such as 'blocks.11=n (h w) c'"
            )
        sizes = pairs(self.layout_sizes or (), "--layout-sizes")
        said = {"layouts": layouts, "layout_sizes": sizes, "extra_tokens": self.num_extra_tokens}
        return {name: value for name, value in said.items() if value not in (None, {})}

    def load(self, spec: str) -> Subject:
        """The subject of a spec with these options."""
        from torchloupe.sources import subject

        return subject(**self.words(spec))


@dataclass(frozen=True)
class Running:
    """How a run over many samples goes.

    Attributes:
        batch_size: Samples in one forward.
        strict: Stop at the first sample that fails, instead of going on without it.
        again: Compute anew what lies on disk already.
        workers: Worker processes on this machine, or Ray actors; 0: this process. Results are the same.
        engine: processes (torch's launcher, on this machine) or ray (here or on a cluster).
        address: Of a Ray cluster: auto, or ray://HOST:PORT. Default: Ray on this machine.
        gpus_per_worker: Share of a GPU that each Ray actor is given.
        store: files (NAME.npz and NAME.json a sample), shards (few large files, for 10^5 samples and more), or auto: by
            the number of samples, or what the folder holds.
        precision: Of maps in shards: float16 and uint8 take a half and a quarter of the bytes; each map keeps its scale.
        timeout: Seconds after which a batch counts as hung; its samples are then tried one by one.
    """

    batch_size: int = 8
    strict: Annotated[bool, Parameter(negative="")] = False
    again: Annotated[bool, Parameter(negative="")] = False
    workers: int = 0
    engine: Literal["processes", "ray"] = "processes"
    address: str | None = None
    gpus_per_worker: float = 0.0
    store: Literal["auto", "files", "shards"] = "auto"
    precision: Literal["float32", "float16", "uint8"] = "float32"
    timeout: float | None = None

    def results(self, folder: Path, count: int, also: Mapping[str, Any]) -> Results:
        """The store for so many samples. Errors: BadInput where the folder holds results in another."""
        from torchloupe.runs.found import store_of

        return store_of(folder, self.store, count, also, self.precision)

    def run(self, job: Job, work: Work, results: Results, what: str = "samples") -> Summary:
        """Do it. Errors: BadInput for options that do not fit each other, or as `runs.run.run`."""
        from torchloupe.runs.run import run

        if self.workers < 0:
            raise BadInput(f"--workers {self.workers}: expected 0 or more")
        if not self.workers and (self.engine != "processes" or self.address or self.gpus_per_worker):
            raise BadInput("--engine, --address and --gpus-per-worker need --workers N")
        engine = None
        if self.workers:
            from torchloupe.runs.workers import on_ray, processes

            if self.engine == "ray":
                engine = on_ray(self.workers, self.address, self.gpus_per_worker)
            elif self.address or self.gpus_per_worker:
                raise BadInput("--address and --gpus-per-worker are of --engine ray")
            else:
                engine = processes(self.workers)
        return run(
            job,
            results,
            batch=self.batch_size,
            strict=self.strict,
            again=self.again,
            timeout=self.timeout,
            engine=engine,
            what=what,
            work=work,
        )


@dataclass(frozen=True)
class Drawing(Look):
    __doc__ = Look.__doc__  # every spelling of its options

    fig_size: Annotated[tuple[float, float], Parameter(name=["--fig-size", "--fig_size", "-f"])] = (8.0, 8.0)
    marker_size: Annotated[float | None, Parameter(name=["--marker-size", "--marker_size", "-m"])] = None
    transparent: Annotated[bool, Parameter(negative="")] = False
    save_ext: Annotated[str | None, Parameter(name=["--save-ext", "--save_ext"])] = None


def pairs(words: Sequence[str], option: str) -> dict[str, Any]:
    """key=value words, or a dictionary as Python writes it -> a dictionary; values are literals where they can be, else text.

    Errors: BadInput for a word without '=', or one that begins like a dictionary and is none.
    """
    found: dict[str, Any] = {}
    for word in words:
        if word.lstrip().startswith("{"):
            try:
                held = ast.literal_eval(word.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                held = None
            if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
                raise BadInput(f"{option} {word!r}: expected a dictionary such as \"{{'key': 1}}\", or key=value")
            found |= held
            continue
        key, mark, value = word.partition("=")
        if not mark or not key:
            raise BadInput(f"{option} {word!r}: expected key=value")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    return found


def say(text: str) -> None:
    """A line for the person who runs the command."""
    print(text, file=sys.stderr, flush=True)
