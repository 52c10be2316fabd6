"""loupe layers: what can be looked at in a model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from torchloupe.cli.options import Model

DEFAULT_MODEL = Model()


def layers(
    model: str,
    /,
    *,
    drawable: Annotated[bool, Parameter(negative="")] = False,
    depth: int | None = None,
    check: Annotated[bool, Parameter(negative="")] = False,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
) -> None:
    """List every layer of a model: name, type, calls, raw shape, layout found, canonical shape (n c t h w).

    The default layers are marked with *. A layer that cannot be drawn says why; one whose layout the shapes leave open, so
    that it is looked into before it is drawn, has a ?. At the end stand the points of attention, attn:NAME, for --at of
    `loupe features`: heads are the channels.

    Parameters:
        model: timm:NAME, transformers:NAME-or-FOLDER, torchvision:NAME, torch:package.module:factory, mmpretrain:CONFIG.py.
        drawable: Only layers with image axes.
        depth: Only layers down to this depth of the name.
        check: Show on what each layout rests, and what gradients from cells of the layer to the input say of it.
    """
    import torch

    from torchloupe.attention import opened, token_grid
    from torchloupe.axes import Layout
    from torchloupe.errors import BadInput
    from torchloupe.evidence import settle, weigh
    from torchloupe.trace import Guess, find_layout, guess, tracing

    subject = loading.load(model)
    if subject.example is not None:
        batch = subject.example
    elif subject.prepare is not None:
        from PIL import Image

        batch = subject.prepare([Image.new("RGB", (320, 320))], ("zeros",))
    else:
        raise BadInput(f"{model}: it is not known what this model takes; give a sample of it with --example FILE")
    attended: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, probabilities: torch.Tensor) -> torch.Tensor:
        attended.append((name, tuple(probabilities.shape)))
        return probabilities

    with subject.asked() as own, torch.no_grad(), tracing(own.module) as trace:
        own.output(batch)
    with subject.asked() as own, torch.no_grad(), opened(own.module, note, lambda _: False):
        own.output(batch)
    calls = trace.calls
    open_ = False
    rows: list[tuple[str, ...]] = [("", "layer", "type", "calls", "raw shape", "layout", "n c t h w")]
    if check:
        rows[0] = (*rows[0], "rests on")
    for name, part in subject.module.named_modules():
        if not name or (depth is not None and name.count(".") >= depth):
            continue
        kind = type(part).__name__
        visits = trace.of(name)
        if not visits:
            if not drawable:
                rows.append(("", name, kind, "0", "", "did not run", ""))
            continue
        for visit in visits:
            address = name if calls[name] == 1 else f"{name}#{visit.call}"
            declared = subject.layout(name)
            look = settle(subject, batch, visit, trace) if check else find_layout(visit, trace, batch.n, batch.size)
            found = declared or look
            shape = tuple(visit.shapes[0]) if visit.shapes else ()
            if not isinstance(found, Layout):
                if not drawable:
                    rows.append(("", address, kind, str(calls[name]), show(shape), f"- {found}", ""))
                continue
            if drawable and found.pattern == "n c":
                continue
            canonical = found.canonical([torch.empty(shape)], batch.n, batch.size).shape if found.join is None else ()
            skip = f" skip {found.skip}" if found.skip else ""
            skip += f" behind {found.behind}" if found.behind else ""
            mark = "*" if address in subject.layers else ""
            text = found.pattern + skip
            if check:
                shown = weigh(subject, batch, visit, found) if found.pattern != "n c" else None
                rests = f"{found.rests or 'declared'}" + (
                    f"; {shown}" if shown and str(shown) not in found.rests else ""
                )
                rows.append((mark, address, kind, str(calls[name]), show(shape), text, show(tuple(canonical)), rests))
                continue
            by_shape = None if declared else guess(visit, trace, batch.n, batch.size)
            if isinstance(by_shape, Guess) and by_shape.doubt and subject.extra_tokens is None:
                text, open_ = text + " ?", True
            rows.append((mark, address, kind, str(calls[name]), show(shape), text, show(tuple(canonical))))
    seen = [name for name, _ in attended]
    for i, (name, raw) in enumerate(attended):
        if not name or (depth is not None and name.count(".") >= depth):
            continue
        often = seen.count(name)
        address = f"attn:{name}" + (f"#{seen[:i].count(name)}" if often > 1 else "")
        lies: Layout | str = "in windows"
        if len(raw) == 4 and raw[0] == batch.n:
            lies = token_grid(subject, batch, trace, name, raw[-1])
        if isinstance(lies, Layout):
            of = "class token" if lies.skip and raw[2] > 1 else "mean over queries" if raw[2] > 1 else "pooling query"
            size = lies.canonical([torch.empty(batch.n, raw[-1], raw[1])], batch.n, batch.size).shape
            rows.append(("", address, "attention", str(often), show(raw), of, show(tuple(size))))
        elif not drawable:
            rows.append(("", address, "attention", str(often), show(raw), f"- {lies}", ""))
    wide = [max(len(row[i]) for row in rows if i < len(row)) for i in range(6 + check)]
    for row in rows:
        print(
            "  ".join(
                [*(text.ljust(width) for text, width in zip(row, wide, strict=False)), *row[len(wide) :]]
            ).rstrip()
        )
    if check:
        print(
            "\nrank: share of places that a cell depends on more than on its own (by chance 0.5); near: share of cells that "
            "depend most on their own place or one beside it; local: how much cells differ in what they depend on"
        )
    if open_:
        print("\n?: the shapes leave open how it lies; it is looked into before it is drawn, and with --check")
    print(f"\ndefault: {', '.join(subject.layers) or 'none found'}")


def show(shape: tuple[int, ...]) -> str:
    """(1, 64, 56, 56) -> '1 64 56 56'."""
    return " ".join(map(str, shape))
