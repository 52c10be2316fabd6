"""Reading ahead: what the next batch needs is read in threads while this one is worked on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

Read = TypeVar("Read")
MOST = 4


class Ahead(Generic[Read]):
    """A reader of samples by their ids, which can begin before it is asked.

    Its threads end when nothing is left to read, and hold up no exit where a file hangs.
    """

    def __init__(self, read: Callable[[str], Read]) -> None:
        self._read = read
        self._coming: dict[str, Future[Read]] = {}
        self._queue: SimpleQueue[tuple[str, Future[Read]]] = SimpleQueue()

    def fetch(self, ids: Iterable[str]) -> None:
        """Begin to read these."""
        new = [id for id in ids if id not in self._coming]
        for id in new:
            self._coming[id] = Future()
            self._queue.put((id, self._coming[id]))
        for _ in range(min(len(new), MOST, max(1, (os.cpu_count() or 1) // 2))):
            Thread(target=self._work, name="reading ahead", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                id, future = self._queue.get_nowait()
            except Empty:
                return
            try:
                future.set_result(self._read(id))
            except BaseException as error:  # it is raised where the sample is taken
                future.set_exception(error)

    def take(self, id: str) -> Read:
        """This one, read now where it was not begun; it is held no longer. Errors: what reading it raises."""
        coming = self._coming.pop(id, None)
        return self._read(id) if coming is None else coming.result()
