"""The command line without any server: usage, refusals, restarts, status files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdc.cli.main import main
from cdc.cli.reporting import Reporter, read_status
from cdc.cli.restart import Attempts, Exit, RestartPolicy, after, ending, exit_of
from cdc.errors import (
    LogDamaged,
    SinkError,
    SlotError,
    SourceError,
    SourceUnavailable,
    StoreUnavailable,
)

CONFIG = """\
sources:
  shop: {type: postgres, url: "postgresql://u:${PW}@127.0.0.1:1/x", tables: [orders]}
sinks:
  warehouse: {type: sql, url: "duckdb:///w.duckdb", from: shop.orders}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PW", "s3cret")
    path = tmp_path / "connectors.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("command", ["snapshot"])
def test_what_a_later_version_brings_is_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "warehouse"]) == 2
    said = capsys.readouterr()
    assert f"error: '{command}' is not supported yet in this version" in said.err
    assert said.out == ""


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", "t", "--limit", "many"])
    assert ended.value.code == 2
    assert "'many' is not a whole number" in capsys.readouterr().err


def test_a_missing_file_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-f", "nowhere.yaml", "status"]) == 2
    assert "error: nowhere.yaml: there is no such file" in capsys.readouterr().err


def test_an_unknown_sink_is_answered_with_the_nearest(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", str(file), "query", "warehose", "SELECT 1"]) == 2
    assert "did you mean 'warehouse'?" in capsys.readouterr().err


def test_a_source_that_does_not_answer_is_an_error_without_secrets(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", str(file), "check"]) == 1
    said = capsys.readouterr()
    assert "error" in said.out
    assert "s3cret" not in said.out + said.err


def test_status_tells_what_it_can_when_the_source_is_away(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", str(file), "status", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sources"]["shop"]["state"] == "never started"
    assert not facts["sources"]["shop"]["reachable"]
    assert facts["sinks"]["warehouse"]["position"] is None


def test_remove_does_not_act_without_being_told(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["-f", str(file), "remove", "warehouse"]) == 2
    assert "add --yes" in capsys.readouterr().err


def test_python_m_cdc_is_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cdc", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("cdc-views ")


def test_deliberate_errors_are_not_tried_again() -> None:
    assert exit_of(SlotError("gone")) is Exit.FAILED
    assert exit_of(LogDamaged("crc")) is Exit.FAILED
    assert exit_of(SourceError("no primary key")) is Exit.FAILED
    assert exit_of(SinkError("the table does not fit")) is Exit.FAILED
    assert exit_of(SourceUnavailable("connection refused")) is Exit.UNAVAILABLE
    assert exit_of(StoreUnavailable("locked")) is Exit.UNAVAILABLE
    assert [ending(code) for code in (0, 3, 4, -9, 70)] == [
        "done", "failed", "unavailable", "crashed", "crashed",
    ]  # fmt: skip


def test_delays_double_up_to_the_ceiling_and_end() -> None:
    policy = RestartPolicy(first_delay_s=1, max_delay_s=4, tries=5)
    seen, delays = Attempts(), []
    for _ in range(5):
        seen, delay = after(policy, seen, ran_s=0.1)
        delays.append(delay)
    assert delays == [1, 2, 4, 4, None]


def test_a_connector_that_ran_is_tried_for_ever_unless_somebody_waits() -> None:
    for for_ever, last in ((True, 4.0), (False, None)):
        policy = RestartPolicy(first_delay_s=1, max_delay_s=4, tries=3, for_ever=for_ever)
        seen, delay = after(policy, Attempts(), ran_s=60)
        assert delay == 1
        for _ in range(9):
            seen, delay = after(policy, seen, ran_s=0.1)
        assert delay == last


def test_a_status_file_outlives_its_process_as_stopped(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys; from cdc.cli.reporting import Reporter;"
        "Reporter(pathlib.Path(sys.argv[1]), 'source', 'shop')(state='streaming');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    told = read_status(tmp_path, "source", "shop")
    assert told is not None and told["state"] == "stopped"
    assert read_status(tmp_path, "source", "other") is None


def test_a_reported_error_is_masked_and_the_last_word_stays(tmp_path: Path) -> None:
    report = Reporter(tmp_path, "sink", "w")
    report(table="public.orders", table_rows=5, table_rows_total=10)
    report(error="cannot reach postgresql://u:s3cret@h/x")
    report.close("failed")
    told = read_status(tmp_path, "sink", "w")
    assert told is not None and told["state"] == "failed"
    assert told["errors"][0]["error"] == "cannot reach postgresql://u:***@h/x"
    assert told["progress"] == {"public.orders": {"table_rows": 5, "table_rows_total": 10}}
