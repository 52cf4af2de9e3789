"""A MySQL source driven by hand, and what the server itself says of the same rows.

`expected` is the other reading: SELECT's own text, through PyMySQL without its conversions, turned
into what our rows should hold by rules that are written here and nowhere else.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D
from cdc.config import MySqlConfig, Place, SourceConfig, ZeroDates
from cdc.config_mysql import derived_server_id
from cdc.frontiers import Frontier
from cdc.latest import latest_per_key
from cdc.mysql.source import MySqlSource
from cdc.positions import Vector
from cdc.source import Piece
from tests.fix_mysql import MyDatabase

SOURCE = "crm"
UTC = dt.UTC
Rows = dict[Any, dict[str, Any]]


def source_config(
    database: MyDatabase, *tables: str, zero_dates: ZeroDates = "null", minimal: bool = False
) -> SourceConfig:
    """Of the tables named, or of all in the database. Each database has a server_id of its own."""
    own = derived_server_id(database.name)
    place = Place("connectors.yaml", 1, 1)
    names = tuple(f"{database.name}.{table}" for table in tables or ("*",))
    mysql = MySqlConfig(own, zero_dates, minimal, heartbeat_s=0.2)
    return SourceConfig(SOURCE, "mysql", database.url, names, "initial", "", "", place, mysql=mysql)


@dataclass
class Captured:
    """Pieces of a source, in order, as a log would hold them."""

    config: SourceConfig
    folder: Path
    pieces: list[Piece] = field(default_factory=list)
    identity: str = ""

    def source(self) -> MySqlSource:
        return MySqlSource(self.config, self.folder / "state")

    def snapshot(self) -> None:
        with closing(self.source()) as source:
            source.open(None)
            self.identity = source.identity()
            self.pieces += source.snapshot(list(source.tables()), 10**6)

    def stream(self) -> None:
        """All that is committed now and was not read yet."""
        with closing(self.source()) as source:
            last = next(piece for piece in reversed(self.pieces) if piece.whole)
            frontier = Frontier(
                SOURCE,
                Vector.of({SOURCE: last.position}),
                identity=self.identity,
                resume=dict(last.resume),
            )
            source.open(frontier, history=self.history)
            until = source.place_barrier()
            stream = source.stream(frontier, 10**6, 0.2)
            for piece in stream:
                self.pieces.append(piece)
                if piece.whole and piece.position.covers(until):
                    break
            stream.close()  # type: ignore[attr-defined]

    def history(self, table: str) -> Iterator[ChangeBatch]:
        return (batch for piece in self.pieces for name, batch in piece.changes if name == table)

    def batches(self, table: str) -> list[ChangeBatch]:
        return list(self.history(f"{self.config.database}.{table}"))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What is live at the end, as Python values; extension types as their text."""
        batches = self.batches(table)
        if not batches:
            return []
        newest = latest_per_key([batch.conformed(batches[-1].schema) for batch in batches])
        return plain_rows(newest.rows.take(pa.array(np.flatnonzero(newest.op != D))))


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    columns = [c.storage if isinstance(c.type, pa.ExtensionType) else c for c in batch.columns]
    rows = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return [{name: _in_utc(value) for name, value in row.items()} for row in rows]


def _in_utc(value: Any) -> Any:
    """pyarrow has another object for the zone UTC."""
    zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
    return value.astimezone(UTC) if zoned else value


def differing(ours: Rows, said: Rows) -> dict[Any, tuple[Any, Any]]:
    """By key, rows that are not the same, to the sign of a zero and the digits of a decimal."""
    return {
        key: (ours.get(key), said.get(key))
        for key in ours.keys() | said.keys()
        if repr(ours.get(key)) != repr(said.get(key))
    }


Meaning = Callable[[Any], Any]
"""What our row holds for a value as SELECT printed it, which is not NULL."""


def text(raw: Any) -> str:
    return raw if isinstance(raw, str) else raw.decode()


def blob(raw: Any) -> bytes:
    return raw if isinstance(raw, bytes) else raw.encode()


def integer(raw: Any) -> int:
    return int(text(raw))


def decimal(raw: Any) -> Decimal:
    return Decimal(text(raw))


def floating(raw: Any) -> float:
    return float(text(raw))


def single(raw: Any) -> float:
    return float(np.float32(text(raw)))


def flag(raw: Any) -> bool:
    return blob(raw) == b"\x01"


def date(raw: Any) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text(raw))
    except ValueError:
        return None


def moment(raw: Any) -> dt.datetime | None:
    """To the microsecond, whatever the declared fraction."""
    try:
        return dt.datetime.fromisoformat(text(raw))
    except ValueError:
        return None


def instant(raw: Any) -> dt.datetime | None:
    at = moment(raw)
    return None if at is None else at.replace(tzinfo=UTC)


def duration(raw: Any) -> str:
    """Postgres prints no zeros behind the fraction's last digit."""
    whole, point, fraction = text(raw).partition(".")
    kept = fraction.rstrip("0")
    return whole + (point + kept if kept else "")


def wkb(raw: Any) -> bytes:
    """MySQL prints the SRID and then WKB; with an SRID it is EWKB here."""
    srid, order, kind, rest = raw[:4], raw[4:5], raw[5:9], raw[9:]
    if srid == bytes(4):
        return bytes(raw[4:])
    flagged = int.from_bytes(kind, "little") | 0x20000000
    return bytes(order + flagged.to_bytes(4, "little") + srid + rest)


def selected(
    database: MyDatabase, table: str, meanings: Mapping[str, Meaning], exact: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The table's rows by the other reading. `exact`: columns of FLOAT, which SELECT rounds to six
    digits unless it is asked for a double."""
    wanted = ", ".join(f"`{n}` + 0e0" if n in exact else f"`{n}`" for n in meanings)
    with closing(database.connect(conv={})) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {wanted} FROM `{table}`")
        rows = cursor.fetchall()
    return [
        {
            name: None if raw is None else meaning(raw)
            for (name, meaning), raw in zip(meanings.items(), row, strict=True)
        }
        for row in rows
    ]


def by(rows: Sequence[Mapping[str, Any]], key: str = "id") -> Rows:
    found = {row[key]: dict(row) for row in rows}
    assert len(found) == len(rows)
    return found
