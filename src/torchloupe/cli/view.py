"""`loupe view` and `loupe report`: results in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from torchloupe.cli.options import say


def view(*paths: Path, port: int = 0, open: Annotated[bool, Parameter(negative="--no-open")] = True) -> None:
    """Look at results in the browser: galleries, samples, tables, maps of points.

    The page is served from this machine only (127.0.0.1), at an address with a secret in it, and reads only what lies in
    these folders. It shows what a run writes while it goes on. Ctrl-C ends it.

    Parameters:
        paths: Folders of results, and maps of points (.npz, .parquet).
        port: Of the address; 0: any that is free.
        open: Open a browser; otherwise only the address is printed.
    """
    import webbrowser
    from threading import Thread

    from torchloupe.view.api import Library
    from torchloupe.view.server import serve

    library = Library(paths)

    def ready(address: str) -> None:
        print(address, flush=True)
        say("loupe: Ctrl-C ends it")
        if open:  # some commands in $BROWSER return only when the browser is closed
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(library, ready, port)


def report(
    *paths: Path, out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"), most: int = 60
) -> None:
    """Results as one page in one file: opens from disk, needs no network, can be mailed.

    Parameters:
        paths: Folders of results, and maps of points (.npz, .parquet).
        out: The file.
        most: So many samples of each run are put in, spread evenly.
    """
    from torchloupe.view.report import write_report

    made = write_report(paths, out, most)
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")
