"""The whole pipeline when what it stands on gives way: the server, its slot, the disk. It stops or
waits, says what to do, and afterwards every sink equals the SELECT on Postgres (see house.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.house import DUCK, SOURCE, VIEWS, House, built
from tests.fix_services import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.service]

SEED = 8_128
# Root writes where it pleases; without this right it may not either.
WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()


@pytest.fixture
def house(postgres: PostgresServer, tmp_path: Path) -> Iterator[House]:
    with built(postgres, tmp_path, SEED) as house:
        yield house


def test_postgres_restarted_in_mid_stream(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Source and mirror are both on it."""
    with built(own_postgres, tmp_path, SEED) as house:
        run = house.run("run")
        house.work()
        house.caught_up()
        house.work()
        own_postgres.restart("fast")
        house.work()
        house.caught_up()
        house.work()
        own_postgres.restart("immediate")
        house.work()
        house.check()
        run.process.terminate()
        assert run.wait() == 0, run.said()


def test_a_slot_that_cannot_go_on(house: House) -> None:
    """Stopped with a remedy; the remedy brings everything back."""
    house.start_all()
    house.caught_up()
    slot = (house.capture.config.slot,)
    with psycopg.connect(house.url, autocommit=True) as connection:
        house.children[SOURCE].kill()
        house.work()
        house.work_until(lambda: not slot_is_active(connection, *slot), "the slot to be released")
        connection.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", slot)
        house.start(SOURCE)
        said = house.ends(SOURCE, status=3)
        assert "ahead of the log's frontier" in said and "cdc remove shop" in said, said
        connection.execute("SELECT pg_drop_replication_slot(%s)", slot)
        house.start(SOURCE)
        said = house.ends(SOURCE, status=3)
        assert "slot is gone" in said and "cdc remove shop" in said, said

    house.stop_all()
    assert house.cdc("remove", "shop", "--yes") == 0
    house.start_all()
    house.work()
    house.check()


def test_no_room(house: House) -> None:
    """For the log, the views' state, the DuckDB file: it stops, or tries again, and loses
    nothing."""
    house.start_all()
    house.caught_up()
    for kind in (SOURCE, VIEWS):
        house.children[kind].kill()
        house.start(kind, through=room_for(house.directory / "log", 1_000_000))
        if kind == SOURCE:
            house.workload.large()
        said = house.ends(kind, status=4)
        assert "cannot be used" in said or "cannot be written" in said, said
        assert "space" in said, said
        house.start(kind)
    house.caught_up()
    house.children[DUCK].kill()
    house.workload.large()  # more than the limit, before the sink's own bookkeeping comes near it
    house.start(DUCK, through=room_for(house.directory, 1_000_000))
    assert "Could not write file" in house.ends(DUCK, status=3)
    house.start(DUCK)
    house.check()


def test_a_log_that_cannot_be_written(house: House) -> None:
    house.start_all()
    house.caught_up()
    house.stop_all()
    folders = [house.directory / "log" / "log", house.directory / "log" / "log" / "consumers"]
    files = [f for folder in folders for f in folder.iterdir() if f.is_file()]
    set_mode(files, 0o444)
    set_mode(folders, 0o555)
    for kind in (SOURCE, VIEWS):
        house.start(kind, through=WITHOUT_OVERRIDE)
        said = house.ends(kind, status=4)
        assert "make the log directory and its files writable" in said, said
    set_mode(folders, 0o755)
    set_mode(files, 0o644)
    house.start_all()
    house.work()
    house.check(verify=False)


def room_for(folder: Path, more_bytes: int) -> tuple[str, str]:
    """A command's prefix under which no database file grows beyond the largest and `more_bytes`."""
    largest = max(file.stat().st_size for file in folder.rglob("*.d*b*") if file.is_file())
    return ("prlimit", f"--fsize={largest + more_bytes}")


def slot_is_active(connection: psycopg.Connection[Any], slot: str) -> bool:
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    return connection.execute(active, (slot,)).fetchone() == (True,)


def set_mode(paths: list[Path], mode: int) -> None:
    for path in paths:
        path.chmod(mode)
