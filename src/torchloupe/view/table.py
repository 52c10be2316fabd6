"""The rows of a run, chosen and sorted by SQLite: a page of a million in milliseconds."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from torchloupe.errors import BadInput, nearest
from torchloupe.runs.found import Found
from torchloupe.store.shards import Shards
from torchloupe.view.joints import Joints

SIGNS = {"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
BINS = 40
MOST = 500
LOOKED = 1000


class Table:
    """What a run says of its samples. Columns: id, failed (the reason, of those that were left out), and the run's own.

    A condition is [column, sign, value], sign one of = != < <= > >= and ~ (contains, whatever the case). Rows of shards are
    read from their index; those of files are put into a table in memory, again when the run has grown.
    """

    def __init__(self, found: Found | Joints) -> None:
        self.found = found
        self._lock = Lock()
        self._memory: sqlite3.Connection | None = None
        self._stamp: object = None

    def _ask(self, query: str, values: Sequence[Any]) -> list[Any]:
        """The rows of a query over the table `run` (id, failed, row as JSON)."""
        root = self.found.root
        if not root.is_dir():  # else an index of nothing would be written there
            raise BadInput(f"{root.name}: this folder is not there any more")
        with self._lock:
            store = None if isinstance(self.found, Joints) else self.found.store
            if not isinstance(store, Shards):
                return self._in_memory().execute(query, values).fetchall()
            with store.indexed() as index:
                row = "json_extract(record, '$.row') AS row"
                index.execute(f"CREATE TEMP VIEW run AS SELECT id, failed, {row} FROM samples")
                return index.execute(query, values).fetchall()

    def _in_memory(self) -> sqlite3.Connection:
        stamp = self.found.stamp() if isinstance(self.found, Joints) else _stamp(self.found)
        if self._memory is None or stamp != self._stamp:
            memory = sqlite3.connect(":memory:", check_same_thread=False)
            memory.execute("CREATE TABLE run (id TEXT PRIMARY KEY, failed TEXT, row TEXT)")
            fresh = self.found if isinstance(self.found, Joints) else Found(self.found.store)
            rows = fresh.rows() if isinstance(fresh, Joints) else _rows(fresh)
            memory.executemany("INSERT OR REPLACE INTO run VALUES (?, ?, ?)", rows)
            self._memory, self._stamp, self.found = memory, stamp, fresh
        return self._memory

    def columns(self) -> dict[str, str]:
        """Column -> number or text, of the first thousand rows."""
        rows = self._ask("SELECT row FROM run WHERE failed IS NULL LIMIT ?", (LOOKED,))
        found: dict[str, str] = {}
        for (text,) in rows:
            for name, value in json.loads(text or "{}").items():
                if isinstance(value, (str, list, dict)):
                    found[name] = "text"
                elif value is not None:
                    found.setdefault(name, "number")
        return found

    def _value(self, column: str, known: Mapping[str, str]) -> tuple[str, list[Any]]:
        if column in ("id", "failed"):
            return column, []
        if column not in known:
            raise BadInput(f"no column {column!r}.{nearest(column, known)} Columns: {', '.join(('id', *known))}")
        return "json_extract(row, ?)", [f'$."{column}"' if '"' not in column else "$"]

    def _where(
        self, conditions: Sequence[Sequence[Any]], failed: bool, known: Mapping[str, str]
    ) -> tuple[str, list[Any]]:
        parts, values = ["failed IS NOT NULL" if failed else "failed IS NULL"], []
        for condition in conditions:
            if not isinstance(condition, (list, tuple)) or len(condition) != 3 or not isinstance(condition[0], str):
                raise BadInput(f"condition {condition!r}: expected [column, sign, value]")
            column, sign, value = condition
            if not isinstance(value, (str, int, float)) or (sign not in SIGNS and sign != "~"):
                raise BadInput(f"condition {condition!r}: expected one of {' '.join(SIGNS)} ~ and a number or text")
            text, more = self._value(column, known)
            if sign == "~":
                parts.append(f"instr(lower({text}), lower(?)) > 0")
            else:
                parts.append(f"{text} {SIGNS[sign]} ?")
            values += [*more, value]
        return " AND ".join(parts), values

    def count(self, conditions: Sequence[Sequence[Any]] = (), failed: bool = False) -> int:
        """How many rows."""
        where, values = self._where(conditions, failed, self.columns())
        return int(self._ask(f"SELECT count(*) FROM run WHERE {where}", values)[0][0])

    def rows(
        self,
        conditions: Sequence[Sequence[Any]] = (),
        sort: str = "id",
        down: bool = False,
        start: int = 0,
        count: int = 100,
        failed: bool = False,
    ) -> list[dict[str, Any]]:
        """A page of rows, at most 500. Errors: BadInput for an unknown column or a condition of another form."""
        known = self.columns()
        where, values = self._where(conditions, failed, known)
        order, more = self._value(sort, known)
        way = "DESC" if down else "ASC"
        query = f"SELECT id, failed, row FROM run WHERE {where} ORDER BY {order} {way}, id LIMIT ? OFFSET ?"
        found = self._ask(query, [*values, *more, max(0, min(count, MOST)), max(0, start)])
        return [{"id": id, "failed": why, **json.loads(row or "{}")} for id, why, row in found]

    def spread(self, most: int, conditions: Sequence[Sequence[Any]] = ()) -> list[dict[str, Any]]:
        """At most so many rows, evenly spread over those that fit, in the order of their ids."""
        where, values = self._where(conditions, False, self.columns())
        step = max(1, -(-self.count(conditions) // most))
        query = (
            f"SELECT id, row FROM (SELECT id, row, row_number() OVER (ORDER BY id) - 1 AS n FROM run WHERE {where}) "
            "WHERE n % ? = 0 ORDER BY n"
        )
        return [{"id": id, **json.loads(row or "{}")} for id, row in self._ask(query, [*values, step])]

    def csv(self, conditions: Sequence[Sequence[Any]] = (), sort: str = "id", down: bool = False) -> str:
        """All rows that fit, as CSV."""
        names = ["id", *self.columns()]
        held = io.StringIO()
        out = csv.DictWriter(held, names, extrasaction="ignore")
        out.writeheader()
        for start in range(0, self.count(conditions), MOST):
            out.writerows(self.rows(conditions, sort, down, start, MOST))
        return held.getvalue()

    def histogram(self, column: str, conditions: Sequence[Sequence[Any]] = ()) -> dict[str, Any]:
        """Counts of a column: of 40 bins between its least and largest number, or of its 40 commonest words."""
        known = self.columns()
        where, values = self._where(conditions, False, known)
        text, more = self._value(column, known)
        if known.get(column) != "number":
            query = f"SELECT {text} AS v, count(*) FROM run WHERE {where} GROUP BY v ORDER BY 2 DESC, 1 LIMIT {BINS}"
            found = self._ask(query, [*more, *values])
            return {"kind": "text", "names": [str(v) for v, _ in found], "counts": [n for _, n in found]}
        are = f"typeof({text}) IN ('real', 'integer')"
        query = f"SELECT min({text}), max({text}) FROM run WHERE {where} AND {are}"
        low, high = self._ask(query, [*more, *more, *values, *more])[0]
        if low is None:
            return {"kind": "number", "low": None, "high": None, "counts": []}
        query = (
            f"SELECT min({BINS - 1}, CAST(({text} - ?) * {BINS} / ? AS INTEGER)) AS bin, count(*) FROM run "
            f"WHERE {where} AND {are} GROUP BY bin"
        )
        counts = [0] * BINS
        for place, number in self._ask(query, [*more, low, float(high - low) or 1.0, *values, *more]):
            counts[place] = number
        return {"kind": "number", "low": low, "high": high, "counts": counts}


def _stamp(found: Found) -> object:
    """Changes when the run grows."""
    root = found.store.root
    paths = [path for path in (root, *root.glob("*")) if path.is_dir() or path.suffix == ".json"]
    return [(path.name, path.stat().st_mtime_ns) for path in paths]


def _rows(found: Found) -> list[tuple[str, str | None, str]]:
    """(id, why it was left out, row as JSON) of every sample."""
    rows: list[tuple[str, str | None, str]]
    rows = [(str(row.pop("id")), None, json.dumps(row)) for row in found.table]
    return rows + [(id, str(why), "{}") for id, why in found.failed.items()]
