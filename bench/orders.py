"""The table, the backlog and pg_recvlogical, as the benchmarks of capture share them.

8 columns, about 150 bytes a row; a backlog is committed in transactions of 1,000 rows.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cdc.positions import NativePosition
from tests.fix_capture import Capture
from tests.fix_services import PostgresServer

TABLE = "public.bench_orders"
DDL = """CREATE TABLE bench_orders (
  id bigint PRIMARY KEY, customer_id int NOT NULL, amount numeric(12,2) NOT NULL,
  sku text NOT NULL, email text NOT NULL, note text, created_at timestamptz NOT NULL,
  paid boolean NOT NULL)"""
INSERT = """INSERT INTO bench_orders
SELECT g, (g*7919)%100000, ((g*37)%10000000)/100.0,
  'SKU-'||lpad(((g*31)%50000)::text,8,'0'), 'customer'||((g*7919)%100000)||'@mail.example.com',
  CASE WHEN g%10=0 THEN NULL ELSE 'note '||md5(g::text)||' '||left(md5((g+1)::text),20) END,
  timestamptz '2024-01-01 00:00:00+00' + (g||' seconds')::interval, g%3=0
FROM generate_series({first}::bigint, {last}::bigint) g"""
LOAD = f"""DO $$ DECLARE a bigint; BEGIN
FOR a IN SELECT generate_series(1, {{rows}}, 1000) LOOP
  {INSERT.format(first="a", last="a+999")}; COMMIT;
END LOOP; END $$"""


def new_database(server: PostgresServer) -> Capture:
    """An empty database, to be captured into a new folder."""
    folder = Path(tempfile.mkdtemp(prefix="cdc-bench-"))
    return Capture(server.url(server.new_database()), folder)


def filled(capture: Capture, rows: int) -> None:
    """The table with its rows, ready for a snapshot."""
    capture.sql(DDL, INSERT.format(first=1, last=rows), "VACUUM ANALYZE bench_orders", "CHECKPOINT")


def backlog(capture: Capture, rows: int) -> NativePosition:
    """Fill the empty table; the position behind it, after which one more transaction follows."""
    capture.sql(LOAD.format(rows=rows), "VACUUM ANALYZE bench_orders", "CHECKPOINT")
    end = capture.barrier()
    capture.barrier()
    return end


def receive(server: PostgresServer, capture: Capture, slot: str, end: NativePosition) -> None:
    """pg_recvlogical of what the slot has, up to `end`, to /dev/null."""
    publication = capture.config.publication
    options = ["-o", "proto_version=1", "-o", f"publication_names={publication}"]
    program = str(server.bin_dir / "pg_recvlogical")
    subprocess.run(
        [program, "-d", capture.url, "--slot", slot, "--start", *options, "-f", "/dev/null",
         f"--endpos={end}", "--no-loop", "-F", "0"],
        check=True,
    )  # fmt: skip


def timed(work: Callable[[], None]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def shares(ours: list[float], peer: list[float]) -> tuple[float, ...]:
    """Ours in per cent of the peer's, run by run."""
    return tuple(100 * a / b for a, b in zip(ours, peer, strict=True))
