"""The command `loupe`. Files of commands import nothing heavy before a command runs."""

from __future__ import annotations

import re
import sys
import warnings
from itertools import islice
from typing import Any

from torchloupe.named import own

# name -> where its function is; the files of commands import nothing heavy before they run.
COMMANDS: dict[str, str] = {
    "browse": "torchloupe.cli.browse:browse",
    "cam": "torchloupe.cli.cam:cam",
    "diff": "torchloupe.cli.features:diff",
    "draw": "torchloupe.cli.draw:draw",
    "features": "torchloupe.cli.features:features",
    "layers": "torchloupe.cli.layers:layers",
    "plugins": "torchloupe.cli.plugins:plugins",
    "embed": "torchloupe.cli.embed:embed",
    "project": "torchloupe.cli.embed:project",
    "tsne": "torchloupe.cli.embed:tsne",
    "compare-points": "torchloupe.cli.embed:compare_points",
    "adjust-3d": "torchloupe.cli.embed:adjust_3d",
    "schedule": "torchloupe.cli.browse:schedule",
}
# name -> (one line of help, commands); the command "" is what the group's name alone runs.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "demo": (
        "See the tool at work, from data to pictures, without a download.",
        {
            "": "torchloupe.cli.demo:demo",
            "embed": "torchloupe.cli.embed:demo",
            "gait": "torchloupe.cli.gait:demo",
            "pose": "torchloupe.cli.pose:demo",
        },
    ),
    "gait": (
        "Why did this probe match that gallery sequence? OpenGait's models, configs and data.",
        {
            "cam": "torchloupe.cli.gait:cam",
            "draw": "torchloupe.cli.gait:draw",
            "layers": "torchloupe.cli.gait:layers",
        },
    ),
    "pose": (
        "Diagnose a pose model: attribution maps, errors, indices, inversions.",
        {
            name: f"torchloupe.cli.pose:{name}"
            for name in ("ig", "epe", "index", "inversions", "depend", "draw", "report", "compare", "export")
        },
    ),
}
# `-h` is the opacity of heatmaps there, as people know it
OWN_HELP = {"torchloupe.cli.gait:draw": ["--help"]}


def build() -> Any:
    """The command-line application."""
    from cyclopts import App, Parameter

    from torchloupe import __version__

    plain = Parameter(show_default=lambda value: None if value is False else value)
    app = App(name="loupe", help="Look inside a PyTorch vision model.", version=__version__, default_parameter=plain)
    for name, path in COMMANDS.items():
        app.command(own(path), name=name)
    for name, (text, commands) in GROUPS.items():
        group = App(name=name, help=text)
        for command, path in commands.items():
            if command:
                group.command(own(path), name=command, help_flags=OWN_HELP.get(path, ["--help", "-h"]))
            else:
                group.default(own(path))
        app.command(group)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0 done, 2 bad input, 1 a fault of ours, 130 interrupted."""
    from cyclopts import CycloptsError

    from torchloupe.errors import LoupeError

    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    warnings.showwarning = _warn
    try:
        app = build()
        arguments = keys_first(arguments)
        return int(app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except (LoupeError, CycloptsError) as error:
        if debug:
            raise
        return _fail(str(error), 2)
    except (MemoryError, RecursionError) as error:
        if debug:
            raise
        said = str(error) or type(error).__name__
        return _fail(
            f"a file claims more than the memory holds, or is nested too deeply ({said}); --debug shows where", 2
        )
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def keys_first(arguments: list[str]) -> list[str]:
    """`loupe pose ... --ids 1 2 TEST.USE_GT_BBOX True`: the KEY VALUE pairs of a config, wherever they stand, moved in front of
    the options, since options that take several values would take them too."""
    if arguments[:1] != ["pose"]:
        return arguments
    pairs, rest = [], []
    left = iter(arguments[2:])
    for word in left:
        found = re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+", word)
        if found:
            pairs += [word, *islice(left, 1)]
        else:
            rest.append(word)
    return [*arguments[:2], *pairs, *rest]


def _fail(message: str, status: int) -> int:
    print("loupe: error: " + " ".join(message.split()), file=sys.stderr)
    return status


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    from torchloupe.errors import LoupeWarning

    if issubclass(category, LoupeWarning):
        print(f"loupe: warning: {message}", file=sys.stderr)
