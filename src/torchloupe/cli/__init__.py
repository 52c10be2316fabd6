"""The command `loupe`. Files of commands import nothing heavy before a command runs."""

from __future__ import annotations

import codecs
import os
import re
import signal
import sys
import threading
import warnings
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from itertools import islice
from signal import default_int_handler
from typing import Any

from torchloupe.errors import LoupeError, LoupeWarning, one_line
from torchloupe.named import own, plugged, registered

# name -> (where its function is, its line of help): what is not asked for is not imported.
COMMANDS: dict[str, tuple[str, str]] = {
    "browse": (
        "torchloupe.cli.browse:browse",
        "Look at a data set as the model is fed: through its pipeline, step by step.",
    ),
    "cam": (
        "torchloupe.cli.cam:cam",
        "Draw where a model looks: heatmaps of pictures, by any method, at any layers, for any classes, boxes or regions.",
    ),
    "diff": (
        "torchloupe.cli.features:diff",
        "Draw the difference between two networks, two checkpoints of one network, or two pictures in one network.",
    ),
    "draw": ("torchloupe.cli.draw:draw", "Draw results again with other settings, without running the model."),
    "features": ("torchloupe.cli.features:features", "Draw the feature maps at any point of a network."),
    "judge": (
        "torchloupe.cli.judge:judge",
        "Numbers beside heatmaps: how faithful, where, of what shape, and what a map that knows nothing gets.",
    ),
    "layers": (
        "torchloupe.cli.layers:layers",
        "List every layer of a model: name, type, calls, raw shape, layout found, canonical shape (n c t h w).",
    ),
    "plugins": (
        "torchloupe.cli.plugins:plugins",
        "List what installed packages add: sources of models, methods, targets, kinds of results, drawings, commands; and whether each loads.",
    ),
    "embed": (
        "torchloupe.cli.embed:embed",
        "Embed a data set: a feature vector of every sample, with its id and labels.",
    ),
    "project": (
        "torchloupe.cli.embed:project",
        "Project features to a map: t-SNE, UMAP, PCA, LocalMAP, or any scikit-learn style class.",
    ),
    "clusters": (
        "torchloupe.cli.embed:clusters",
        "The clusters of a map or of features: how many, what they have in common, where errors gather.",
    ),
    "search": (
        "torchloupe.cli.embed:search",
        "How well an embedding finds what belongs together: Rank-k, mAP and mINP of queries in a gallery.",
    ),
    "tsne": ("torchloupe.cli.embed:tsne", "A gait model's data set as one picture: embed, project, draw."),
    "compare-points": (
        "torchloupe.cli.embed:compare_points",
        "Two models or checkpoints on the same samples: maps side by side, aligned, with the points that moved most.",
    ),
    "film": (
        "torchloupe.cli.embed:film",
        "A film of training: the same samples through several checkpoints, map after map.",
    ),
    "adjust-3d": (
        "torchloupe.cli.embed:adjust_3d",
        "Turn a 3-D map in the browser, save the view, and redraw the picture from it.",
    ),
    "sane": (
        "torchloupe.cli.judge:sane",
        "Do the maps depend on the weights at all? Randomised networks, other questions, other methods, moved inputs.",
    ),
    "schedule": (
        "torchloupe.cli.browse:schedule",
        "Draw how the learning rate, momentum or weight decay goes over a training.",
    ),
    "runs": (
        "torchloupe.cli.runs:runs",
        "What lies in folders of results: how many samples, of which kind, how large, what was left out and why.",
    ),
    "view": ("torchloupe.cli.view:view", "Look at results in the browser: galleries, samples, tables, maps of points."),
    "report": (
        "torchloupe.cli.view:report",
        "Results as one page in one file: opens from disk, needs no network, can be mailed.",
    ),
}
# name -> (one line of help, commands); the command "" is what the group's name alone runs.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "demo": (
        "Train a small network on digits in photographs, mark every method against the known places, draw what it sees.",
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
            "eval": "torchloupe.cli.gait:evaluate",
            "judge": "torchloupe.cli.gait:judge",
            "layers": "torchloupe.cli.gait:layers",
            "summary": "torchloupe.cli.gait:summary",
        },
    ),
    "pose": (
        "Diagnose a pose model: attribution maps, errors and their kinds, indices, inversions.",
        {
            name: f"torchloupe.cli.pose:{name}"
            for name in ("ig", "epe", "errors", "index", "inversions", "depend", "draw", "report", "compare", "export")
        },
    ),
}
LONGEST = 1200
"""Letters of an error: what was found in a damaged file may be a whole file."""
# `-h` is the opacity of heatmaps there, as people know it
OWN_HELP = {"torchloupe.cli.gait:draw": ["--help"]}


def build(asked: str | None = None) -> Any:
    """The command-line application. asked: the one command, or group, that is imported; the others are names and lines of
    help. All are by default."""
    from cyclopts import App, Parameter

    from torchloupe import __version__
    from torchloupe.cli.edge import words

    plain = Parameter(
        show_default=lambda value: None if value is False else value, converter=words, negative_iterable=()
    )
    app = App(
        name="loupe",
        help="Look inside a PyTorch vision model.",
        version=__version__,
        default_parameter=plain,
        help_format="plaintext",
    )
    for name, (path, line) in COMMANDS.items():
        if asked in (None, name):
            app.command(own(path), name=name)
        else:
            app.command(App(name=name, help=line))
    for name, (line, commands) in GROUPS.items():
        if asked not in (None, name):
            app.command(App(name=name, help=line))
            continue
        group = App(name=name, help=None if "" in commands else line)
        for command, path in commands.items():
            if command:
                group.command(own(path), name=command, help_flags=OWN_HELP.get(path, ["--help", "-h"]))
            else:
                group.default(own(path))
        app.command(group)
    for name, point in registered("commands").items():
        try:
            app.command(plugged(point), name=name)
        except LoupeError as error:  # what is broken there must not cost the commands that are here
            warnings.warn(str(error), LoupeWarning, stacklevel=2)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run the command line: the exit status is 0 done, 2 bad input, 1 a fault of ours, 130 interrupted, 141 a closed pipe.

    Whatever goes wrong is one line on standard error, except with --debug.
    """
    from torchloupe.cli.edge import spelled

    arguments = spelled(list(sys.argv[1:] if argv is None else argv))
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    with ExitStack() as undone:
        interrupted: list[int] = []
        try:
            _settle(undone, interrupted)
            status = _run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
        except BaseException as error:
            if debug and not isinstance(error, (SystemExit, BrokenPipeError)):
                raise
            return _told(error, bool(interrupted))


def _run(arguments: list[str]) -> int:
    from torchloupe.cli.edge import check

    app = build(next((word for word in arguments if not word.startswith("-")), ""))
    command, bound, _ = app.parse_args(keys_first(arguments), exit_on_error=False, print_error=False)
    check(bound)
    if command.__module__.startswith("cyclopts."):  # its help needs nothing of ours
        return int(command(*bound.args, **bound.kwargs) or 0)
    from torchloupe.store import speaking

    with speaking(["loupe", *arguments]):
        return int(command(*bound.args, **bound.kwargs) or 0)


def _settle(undone: ExitStack, interrupted: list[int]) -> None:
    """Warnings as lines, output in any encoding, Ctrl-C noted even where other code swallows it; all put back by `undone`."""
    undone.callback(setattr, warnings, "showwarning", warnings.showwarning)
    warnings.showwarning = _warn
    codecs.register_error("loupe", _encodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            undone.callback(stream.reconfigure, errors=stream.errors)
            stream.reconfigure(errors="loupe")
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is default_int_handler:

        def note(number: int, _frame: object) -> None:
            interrupted.append(number)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, note)
        undone.callback(signal.signal, signal.SIGINT, default_int_handler)


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a terminal cannot encode: bytes of a file name as they are, other characters by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    try:
        return part.encode("ascii", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return part.encode("ascii", "backslashreplace"), error.end


def _told(error: BaseException, interrupted: bool) -> int:
    """What went wrong in one line, and the exit status."""
    if isinstance(error, KeyboardInterrupt) or interrupted:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the line is written once, and nothing else comes after it
        return _fail("interrupted; what is on disk is whole, and the same command goes on from it", 130)
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return 141  # the printer of help says so
    if isinstance(error, SystemExit):
        return _fail(
            f"a model, a config or data of yours ended the program (sys.exit({error.code!r})); take that out", 2
        )
    if isinstance(error, BrokenPipeError) and _closed():
        return 141
    if isinstance(error, (MemoryError, RecursionError)):
        said = str(error) or type(error).__name__
        return _fail(
            f"a file claims more than the memory holds, or is nested too deeply ({said}); if the file is sound, ask for less "
            "at a time; --debug shows where",
            2,
        )
    from cyclopts import CycloptsError

    from torchloupe.errors import LoupeError

    if isinstance(error, CycloptsError):
        return _fail(str(error.__cause__ if isinstance(error.__cause__, LoupeError) else error), 2)
    if isinstance(error, LoupeError):
        return _fail(str(error), 2)
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _closed() -> bool:
    """Whether nobody reads standard output any more; if so nothing more is written to it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    except (OSError, ValueError):
        return False
    return False


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
    line = one_line(message)
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 3 // 4]} ... {line[-LONGEST // 4 :]}"
    with suppress(OSError, ValueError):
        print("loupe: error: " + line, file=sys.stderr)
    return status


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    from torchloupe.errors import LoupeWarning

    if issubclass(category, LoupeWarning):
        print(f"loupe: warning: {one_line(str(message))}", file=sys.stderr)
