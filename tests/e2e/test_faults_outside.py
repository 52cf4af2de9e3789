"""The whole pipeline when what it stands on gives way: the server, its slot, the disk. It stops or
waits, says what to do, and afterwards every sink equals the SELECT on Postgres (see house.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.house import DUCK, MIRROR, SOURCE, VIEWS, House, Kind, built
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


@pytest.mark.parametrize("how", ["dropped", "advanced"])
def test_a_slot_that_cannot_go_on(house: House, how: str) -> None:
    """Stopped with a remedy; the remedy brings everything back."""
    assert house.run("run", "--until-caught-up").wait() == 0, house.said()
    house.work()
    slot = house.capture.config.slot
    with psycopg.connect(house.url, autocommit=True) as connection:
        if how == "dropped":
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        else:
            ahead = "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())"
            connection.execute(ahead, (slot,))
    house.work()
    run = house.run("run", "--until-caught-up")
    assert run.wait() == 1, run.said()
    what = "slot is gone" if how == "dropped" else "ahead of the log's frontier"
    assert what in run.said() and "cdc remove" in run.said(), run.said()

    assert house.cdc("remove", "shop", "--yes") == 0
    assert house.run("run", "--until-caught-up").wait() == 0, house.said()
    house.start_all()
    house.work()
    del house.children["run", "run"]
    house.check()


@pytest.mark.parametrize("kind", [SOURCE, VIEWS])
def test_no_room_for_the_log(house: House, kind: Kind) -> None:
    house.start_all()
    house.caught_up()
    house.children[kind].kill()
    largest = max(file.stat().st_size for file in (house.directory / "log").rglob("*.db*"))
    house.start(kind, through=("prlimit", f"--fsize={largest + 1_000_000}"))
    if kind == SOURCE:
        house.workload.large()
    said = house.ends(kind, status=4)
    assert "cannot be used" in said or "cannot be written" in said, said
    assert "space" in said, said
    house.start(kind)
    house.work()
    house.check()


def test_a_log_that_cannot_be_written(house: House) -> None:
    house.start_all()
    house.caught_up()
    house.stop_all()
    files = [f for f in (house.directory / "log" / "log").rglob("*") if f.is_file()]
    folders = [house.directory / "log" / "log", house.directory / "log" / "log" / "consumers"]
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
    house.check()


def test_no_room_for_the_sink(house: House) -> None:
    """DuckDB's file cannot grow: tried again and again, and whole when there is room."""
    house.start(SOURCE, VIEWS, MIRROR)
    house.start(DUCK, through=("prlimit", "--fsize=300000"))
    house.work()
    house.work_until(lambda: "Error" in house.children[DUCK].said(), "the sink to complain")
    house.restart(DUCK)
    house.check()


def set_mode(paths: list[Path], mode: int) -> None:
    for path in paths:
        path.chmod(mode)
