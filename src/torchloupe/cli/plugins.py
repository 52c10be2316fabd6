"""loupe plugins: what other packages add."""

from __future__ import annotations


def plugins() -> None:
    """List what installed packages add: sources of models, methods, targets, kinds of results, drawings, commands; and whether each loads.

    A package registers them as entry points of the groups torchloupe.sources, .methods, .targets, .kinds, .drawings, .commands.
    """
    from torchloupe.errors import LoupeError
    from torchloupe.named import GROUPS, plugged, registered

    rows = []
    for group in GROUPS:
        for name, point in registered(group).items():
            try:
                plugged(point)
                state = "loads"
            except LoupeError as error:
                state = " ".join(str(error).split())
            home = f"{point.dist.name} {point.dist.version}" if point.dist else ""
            rows.append((group, name, point.value, home, state))
    if not rows:
        print(f"none; packages register theirs as entry points of {', '.join(f'torchloupe.{one}' for one in GROUPS)}")
        return
    wide = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, wide, strict=False)), row[4]]))
