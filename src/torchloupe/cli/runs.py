"""`loupe runs`: what lies in folders of results, whether it is whole, and how to take it along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from torchloupe.cli.options import say

FEW = 10


def runs(
    *folders: Path,
    verify: Annotated[bool, Parameter(negative="")] = False,
    failed: Annotated[bool, Parameter(negative="")] = False,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    table: Path | None = None,
    export: Path | None = None,
    fetch: str | None = None,
    send: str | None = None,
) -> int:
    """What lies in folders of results: how many samples, of which kind, how large, what was left out and why.

    The command that made a run finishes it, and tries again what was left out; so does --retry-failed. The exit status is 3 where something was left
    out or, with --verify, is damaged.

    Parameters:
        folders: Folders that commands of loupe wrote into.
        verify: Read everything again and check it: shards by their checksums, files by reading them, and source files by
            their hash.
        failed: List every sample that was left out, instead of the first ten.
        retry_failed: Ask again what was left out, and what a killed run had not come to, with the options of the last run, in this process.
        table: Write the table of the run, a row a sample: .csv or .parquet.
        export: Write the arrays of all samples: a folder of .npz, or a NAME.zarr.
        fetch: Bring the shards at a URL (s3://bucket/run; what fsspec opens) that the folder does not have into it, first.
        send: Bring the folder's shards that are not yet at a URL there, last.
    """
    from torchloupe.errors import PARTLY, BadInput
    from torchloupe.runs import carry
    from torchloupe.runs.export import arrays_to, table_to
    from torchloupe.runs.found import results
    from torchloupe.runs.run import retried
    from torchloupe.runs.verify import damaged

    if not folders:
        raise BadInput("nothing to look at: name a folder of results")
    if len(folders) > 1 and (table or export or fetch or send):
        raise BadInput("--table, --export, --fetch and --send take one folder of results")
    status = 0
    for folder in folders:
        if fetch is not None:
            print("fetched {} shards, {:.1f} MB".format(*_megabytes(carry.fetch(fetch, folder))))
        found = results(folder)
        if retry_failed:
            done = retried(found.store)
            print(f"{folder}: {done.made} made, {len(done.failed)} still left out")
            found = results(folder)
        for line in found.told():
            print(line)
        reasons = list(found.failed.items())
        for id, reason in reasons if failed else reasons[:FEW]:
            print(f"  left out: {id}: {reason}")
        if len(reasons) > FEW and not failed:
            print(f"  ... and {len(reasons) - FEW} more (--failed lists them)")
        wrong = damaged(found) if verify else []
        for line in wrong:
            say(line)
        if verify and not wrong:
            print("  verified: whole")
        status = PARTLY if reasons or wrong else status
        if table is not None:
            print(table_to(found, table))
        if export is not None:
            print(arrays_to(found, export))
        if send is not None:
            print("sent {} shards, {:.1f} MB".format(*_megabytes(carry.send(folder, send))))
    return status


def _megabytes(carried: tuple[int, int]) -> tuple[int, float]:
    return carried[0], carried[1] / 1e6
