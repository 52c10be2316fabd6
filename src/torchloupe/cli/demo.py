"""loupe demo: train a small network here and now, and see where it looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from torchloupe.cli.options import say
from torchloupe.runs.progress import progress

if TYPE_CHECKING:
    from torch import nn

    from torchloupe.examples.digits import Accuracy, Material, Row, Scenes
    from torchloupe.probe import Batch

DRAWN = 4
TRUSTED = 24
COLUMNS = ("gradcam", "gradcam_pp", "layercam", "eigencam", "scorecam", "ablationcam", "occlusion")


def demo(
    save: Path = Path("demo"),
    *,
    seed: int = 0,
    steps: int = 1500,
    pictures: int = 200,
    photographs: Path = Path("../shared/data/images"),
    rank: Annotated[bool, Parameter(negative="")] = False,
    transformer: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a small network on digits in photographs, mark every method against the known places, draw what it sees.

    scikit-learn's handwritten digits are put on scikit-image's photographs; the network is trained on one part of both and
    asked "where is the 7?" on the other. The same seed gives the same figures on the same machine.

    Parameters:
        save: Folder to write to.
        seed: Seed of the pictures and of the training.
        steps: Training steps of 16 pictures.
        pictures: Held-out pictures that the methods are marked on.
        photographs: Folder of photographs of your own to put digits on and draw, besides; passed over where absent.
        rank: Order the methods by each number of how far they can be trusted, too.
        transformer: Train a small transformer in place of the CNN, and mark the methods of attention; nothing is drawn.
    """
    import numpy as np

    from torchloupe.errors import BadInput
    from torchloupe.examples import digits

    for option, count in (("--steps", steps), ("--pictures", pictures)):
        if count < DRAWN:
            raise BadInput(f"{option} {count}: expected {DRAWN} or more")
    to_learn, held_out = digits.material(seed)
    if transformer:
        if rank:
            raise BadInput("--rank has no meaning with --transformer, which marks places alone")
        attending(to_learn, held_out, save, seed, steps, pictures)
        return
    begin = time.perf_counter()
    with progress("training", steps) as bar:
        model = digits.train(to_learn, seed=seed, steps=steps, progress=bar.advance)
    print(
        f"trained a CNN for {steps} steps in {time.perf_counter() - begin:.0f} s: digits on photographs, the places known"
    )
    seen = digits.scenes(held_out, pictures, np.random.default_rng([seed, 1]))
    reads = digits.accuracy(model, seen)
    print(
        f"{pictures} held-out pictures (other digits, other photographs): {reads.right:.1%} of lone digits named right; "
        f"of all digits {reads.found:.1%} found, of absent ones {reads.invented:.1%} invented; "
        f"{reads.exact:.1%} of pictures without a fault"
    )
    asked = digits.questions(seen)
    with progress("methods", len(digits.ours())) as bar:
        rows = digits.measure(model, asked, bar.advance)
    print(f"\n{EXPLAINED}\n\n{digits.table(rows)}\n")
    for line in suspicious(rows):
        say(line)
    print(trust(model, asked.take(range(min(TRUSTED, asked.n))), rank))
    stored = keep(save, "demo", seed, steps, reads, rows, seen)
    written = [stored, stored.with_suffix(".npz")]
    written += kept(model, save)
    several = np.flatnonzero(seen.present.sum(1) > 1)[:DRAWN]
    for i in several:
        written += drawn(model, digits.Scenes(seen.pictures[[i]], seen.boxes[[i]]), save, f"picture-{i}")
    written += on_photographs(model, held_out, photographs, save, seed)
    print("wrote")
    for path in written:
        print(f"  {path}")
    print(f"\nthese results in the browser:\n  loupe report {save} -o report.html")
    print(
        f"\nthe same by hand:\n  {by_hand(save, f'picture-{several[0]}.png') if len(several) else 'loupe cam --help'}"
    )


def keep(save: Path, name: str, seed: int, steps: int, reads: Accuracy, rows: Sequence[Row], seen: Scenes) -> Path:
    """The table, how well the network reads, and the pictures on disk; the record's file."""
    from torchloupe import store

    record = {
        "kind": "demo",
        "seed": seed,
        "steps": steps,
        "accuracy": reads._asdict(),
        "rows": [vars(row) | {"milliseconds": None} for row in rows],
    }
    return store.save(save, name, {"pictures": seen.pictures, "boxes": seen.boxes}, record)


def attending(to_learn: Material, held_out: Material, save: Path, seed: int, steps: int, pictures: int) -> None:
    """The same task, read by a transformer: its table, kept with its weights."""
    import numpy as np

    from torchloupe.examples import digits, transformer

    begin = time.perf_counter()
    with progress("training", steps) as bar:
        model = transformer.trained(to_learn, seed=seed, steps=steps, progress=bar.advance)
    print(f"trained a transformer for {steps} steps in {time.perf_counter() - begin:.0f} s")
    seen = digits.scenes(held_out, pictures, np.random.default_rng([seed, 1]))
    reads = digits.accuracy(model, seen)
    print(
        f"{pictures} held-out pictures: {reads.right:.1%} of lone digits named right; of all digits {reads.found:.1%} found, of "
        f"absent ones {reads.invented:.1%} invented"
    )
    with progress("methods", len(transformer.ASKED)) as bar:
        rows = transformer.measure(model, digits.questions(seen), bar.advance)
    print(f"\n{EXPLAINED}\n\n{digits.table(rows)}\n")
    for line in suspicious(rows):
        say(line)
    stored = keep(save, "transformer", seed, steps, reads, rows, seen)
    print("wrote")
    for path in (stored, stored.with_suffix(".npz"), *kept(model, save, "transformer")):
        print(f"  {path}")


EXPLAINED = """Where is the 7? Each digit of each picture is asked for; numbers are per cent, means over the questions asked:
points     the map's maximum lies in the asked digit's box (alone: pictures of one digit, among: of several)
elsewhere  it lies in another digit's box
mass       share of the map's positive part in the box; energy: share of its squares
chance     what a uniform map would get: the boxes' shares of the area
Slow methods answer fewer questions (column asked); ms is CPU time a question, both layers together."""


def trust(model: nn.Module, asked: Batch, rank: bool) -> str:
    """The numbers of a few methods' maps with chance beside them, and the methods' order where it is wanted."""
    from torchloupe.examples import digits
    from torchloupe.render.judgement import order, table

    begin = time.process_time()
    with progress("masked pictures", 1) as bar:
        found = digits.judged(model, asked, lambda done: bar.part(done, max(done + 1, 9000)))
    lines = [TRUST.format(asked.n), *table(found.rows(), "questions without a number")]
    if rank:
        named = {name: found.rank(name) for name in ("deletion", "insertion", "road", "mass")}
        lines += order(named, {})
    lines.append(f"{found.forwards} masked pictures, {time.process_time() - begin:.0f} s of CPU")
    return "\n".join(lines) + "\n"


TRUST = """How far can they be trusted? {} of the questions, maps at the finer layer, the score as a probability; means with 95 %
intervals over the questions, and what maps that know nothing of the network get on the same pictures:"""


def suspicious(rows: Sequence[Row]) -> list[str]:
    """A line for each method that points at the asked digit less often than chance, by more than two standard errors."""
    level = rows[0].points
    return [
        f"{row.method} at {row.layer} points worse than chance: {row.points:.1%} < {level:.1%}"
        for row in rows[1:]
        if not row.refused and row.points < level - 2 * (level * (1 - level) / row.questions) ** 0.5
    ]


def kept(model: nn.Module, save: Path, name: str = "digits") -> list[Path]:
    """The network's weights, for the other commands."""
    from safetensors.torch import save_file

    from torchloupe.store import aside

    with aside(save / f"{name}.safetensors") as (draft,):
        save_file(model.state_dict(), draft)
    return [save / f"{name}.safetensors"]


def drawn(model: nn.Module, scene: Scenes, save: Path, name: str) -> list[Path]:
    """One picture: as it is, its maps for each of its digits, and the labelled grid of them."""
    from dataclasses import replace

    from PIL import Image

    from torchloupe import store
    from torchloupe.examples import digits
    from torchloupe.methods.cam import cams
    from torchloupe.probe import Probe
    from torchloupe.render.pictures import Sheet, drawing
    from torchloupe.render.style import Style
    from torchloupe.targets.classes import Classes

    subject = digits.subject(model)
    batch = digits.as_batch(scene, (name,))
    target = Classes(tuple(int(label) for label in scene.present[0].nonzero()[0]), subject.classes)
    with digits.threads(1):
        found = cams(Probe(subject, subject.layers, target), batch, COLUMNS)
    sheet = Sheet.of(found, batch, 0).made(model=subject.spec, target=repr(target), weights="digits.safetensors")
    with store.aside(save / f"{name}.png") as (draft,):
        Image.fromarray(scene.pictures[0]).save(draft)
    stored = store.save(save, name, sheet.arrays(), sheet.record)
    return [
        *(save / f"{name}.png", stored, stored.with_suffix(".npz")),
        *drawing([replace(sheet, id=name)], Style(compare=True, dpi=150)).save(save),
    ]


def on_photographs(model: nn.Module, held_out: Material, folder: Path, save: Path, seed: int) -> list[Path]:
    """Held-out digits on each photograph of a folder, drawn. The network knows digits only, so those are asked for."""
    from dataclasses import replace

    import numpy as np
    from PIL import ImageOps

    from torchloupe.errors import LoupeError
    from torchloupe.examples import digits
    from torchloupe.sources.images import find, read

    if not folder.is_dir():
        return []
    written: list[Path] = []
    for number, path in enumerate(find([str(folder)])):
        try:
            photograph = np.asarray(ImageOps.fit(read(path), (digits.SIDE, digits.SIDE)))
        except LoupeError as error:
            say(str(error))
            continue
        rng = np.random.default_rng([seed, 2, number])
        scene = digits.scenes(replace(held_out, photographs=(photograph,)), 1, rng, least=2)
        written += drawn(model, scene, save, f"{path.stem}-with-digits")
    return written


def by_hand(save: Path, name: str) -> str:
    """The command that draws one of the demo's pictures with the demo's network."""
    return (
        f"loupe cam {save / name} --model torch:torchloupe.examples.digits:network --weights {save / 'digits.safetensors'} "
        f"--size 64 --mean .5 .5 .5 --std .5 .5 .5 --layers stage2 stage3 --method gradcam layercam --compare --save out"
    )
