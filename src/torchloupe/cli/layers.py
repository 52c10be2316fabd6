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
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
) -> None:
    """List every layer of a model: name, type, calls, raw shape, layout found, canonical shape (n c t h w).

    The default layers are marked with *. A layer that cannot be drawn says why.

    Parameters:
        model: timm:NAME, transformers:NAME-or-FOLDER, torchvision:NAME, torch:package.module:factory, mmpretrain:CONFIG.py.
        drawable: Only layers with image axes.
        depth: Only layers down to this depth of the name.
    """
    import torch

    from torchloupe.axes import Layout
    from torchloupe.errors import BadInput
    from torchloupe.taps import restored
    from torchloupe.trace import find_layout, tracing

    subject = loading.load(model)
    if subject.prepare is None:
        raise BadInput(f"{model}: no picture can be prepared for this model; trace it from Python with a Batch")
    from PIL import Image

    batch = subject.prepare([Image.new("RGB", (320, 320))], ("zeros",))
    with restored(subject.module), torch.no_grad(), tracing(subject.module) as trace:
        subject.output(batch)
    calls = trace.calls
    rows = [("", "layer", "type", "calls", "raw shape", "layout", "n c t h w")]
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
            found = subject.layout(name) or find_layout(visit, trace, batch.n, batch.size)
            shape = tuple(visit.shapes[0]) if visit.shapes else ()
            if not isinstance(found, Layout):
                if not drawable:
                    rows.append(("", address, kind, str(calls[name]), show(shape), f"- {found}", ""))
                continue
            if drawable and found.pattern == "n c":
                continue
            canonical = found.canonical([torch.empty(shape)], batch.n, batch.size).shape if found.join is None else ()
            skip = f" skip {found.skip}" if found.skip else ""
            mark = "*" if address in subject.layers else ""
            rows.append(
                (mark, address, kind, str(calls[name]), show(shape), found.pattern + skip, show(tuple(canonical)))
            )
    wide = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, wide, strict=False)), *row[5:]]).rstrip())
    print(f"\ndefault: {', '.join(subject.layers) or 'none found'}")


def show(shape: tuple[int, ...]) -> str:
    """(1, 64, 56, 56) -> '1 64 56 56'."""
    return " ".join(map(str, shape))
