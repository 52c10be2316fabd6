"""The one way to write: a draft of this process beside the goal, synced and renamed when all went well, else removed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torchloupe.errors import BadInput, LoupeError

LONGEST = 120
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SWEPT: set[str] = set()
DRAFT = re.compile(r"\..*\.(\d+)-\d+~(\.\w+)?")


def safe_name(name: str) -> str:
    """A file name that every file system takes; a name that had to be changed carries eight digits of its hash, so that
    two names never meet in one file. The file name of a file name is that name itself."""
    safe = re.sub(r"[^\w.+=,@-]+", "_", name).strip("._")
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", safe, re.IGNORECASE)
    if safe and safe == name and len(name.encode(errors="surrogateescape")) <= LONGEST and not reserved:
        return name
    mark = f"-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
    short = (safe.replace(".", "_") if reserved else safe)[:LONGEST]
    while len(short.encode(errors="surrogateescape")) > LONGEST - len(mark):
        short = short[:-1]
    return (short or "result") + mark


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def aside(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Drafts in the same folders to write to; synced and renamed to `paths`, in that order, when all went well, else removed.

    A draft is named by its process and thread and keeps the suffix, so that two runs never meet in one, and a library that
    goes by suffixes writes what it should. A draft that was not written is no file afterwards, which is an error. The first
    draft of a process in a folder sweeps those that dead processes have left there.
    Errors: BadInput for a folder that cannot be made or written; LoupeError when the disk is full.
    """
    own = f"{os.getpid()}-{threading.get_ident()}"
    drafts = tuple(path.with_name(f".{path.stem[:40]}.{own}~{path.suffix}") for path in paths)
    try:
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
            if str(folder.absolute()) not in _SWEPT:
                _SWEPT.add(str(folder.absolute()))
                sweep(folder)
        yield drafts
        for draft in drafts:
            _sync(draft)
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
    except OSError as error:
        raise unwritable(error, paths[0].parent) from error
    finally:
        for draft in drafts:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def whole(path: Path, content: bytes | str) -> Path:
    """A file with this content, whole or absent; what UTF-8 cannot hold, such as bytes of a file name, as JSON escapes it.

    Errors: as `aside`."""
    with aside(path) as (draft,):
        draft.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return path


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def unwritable(error: OSError, folder: Path) -> LoupeError:
    """What to say where a file could not be written."""
    if error.errno in FULL:
        return LoupeError(
            f"{folder}: the disk is full; nothing was written that is not whole. Free some space and run the same command "
            "again, or give another folder"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return BadInput(
            f"{folder}: cannot be made a folder for results, since a file stands there; give another folder"
        )
    return BadInput(f"{folder}: cannot write here ({error.strerror or error}); give another folder")


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder whose process is gone, as a killed run leaves them."""
    for draft in folder.glob(".*~*"):
        named = DRAFT.fullmatch(draft.name)
        if named and not _alive(int(named[1])):
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there a signal of 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """This process alone writes into the folder; drafts of dead ones are swept first.

    Errors: BadInput where another run is writing there, naming its process; as `aside` for a folder that cannot be written.
    """
    new = not folder.exists()
    try:
        import fcntl
    except ImportError:  # no such locks on this system: drafts are named by process all the same
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        yield
        return
    path = folder / ".loupe-lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip()
                file.close()
                named = f" (process {owner})" if owner else ""
                raise BadInput(
                    f"{folder}: another run{named} is writing here; wait for it, or give another folder"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    break
            file.close()  # its last owner removed it between our opening and locking
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except OSError as error:
        raise unwritable(error, folder) from error
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            if new:
                folder.rmdir()  # where nothing came of it: a folder that holds something stays
        file.close()


def never_over(inputs: Iterable[str | os.PathLike[str]], outputs: Iterable[str | os.PathLike[str]]) -> None:
    """Errors: BadInput where an output is one of the inputs, by whatever name or link."""
    read = [Path(path) for path in inputs]
    for output in map(Path, outputs):
        for one in read:
            same = output.resolve() == one.resolve()
            if same or (output.exists() and one.exists() and os.path.samefile(output, one)):
                raise BadInput(f"{output}: is an input of this command and would be overwritten; give another output")


__all__ = ["aside", "held", "never_over", "safe_name", "sha256", "sweep", "unwritable", "whole"]
