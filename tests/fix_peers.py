"""Other people's programs beside the broker of `kafka_bootstrap`, as native processes.

connect    session: a Kafka Connect worker with Debezium's Postgres connector. To let Debezium
           capture: `with connect.debezium(pg_database, ["public.orders"], "inv") as debezium`,
           then `debezium.caught_up()`
flink      session: Flink's SQL, which reads topics without any code of ours
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.connect import ConnectWorker, start_connect
from tests.services.flink import Flink, start_flink


@pytest.fixture(scope="session")
def connect(kafka_bootstrap: str) -> Iterator[ConnectWorker]:
    with tempfile.TemporaryDirectory(prefix="cdc-connect-") as folder:
        worker = start_connect(Path(folder), kafka_bootstrap)
        yield worker
        worker.stop()


@pytest.fixture(scope="session")
def flink() -> Iterator[Flink]:
    with tempfile.TemporaryDirectory(prefix="cdc-flink-") as folder:
        session = start_flink(Path(folder))
        yield session
        session.stop()
