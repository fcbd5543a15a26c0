"""`ibkr accounts`, `positions`, `orders`, `fills`, `quote`, `bars` against a daemon and a simulated gateway."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from facade.terminal import data
from shared.settings import Settings
from tests.facade.fake_daemon import FakeDaemon

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the demonstration is stopped by a signal"),
    pytest.mark.timeout(240),
]


@pytest.mark.parametrize(("known", "sentence"), [(True, "No fills."), (False, "Fills are not known")])
async def test_fills_that_are_not_known_are_not_shown_as_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: bool, sentence: str
) -> None:
    async with FakeDaemon(str(tmp_path / "d.sock")) as daemon:
        facts = {"known": known, "stale": not known, "asOf": None, "source": "live"}
        daemon.answer("executions.list", {"rows": [], "next": None, **facts})
        await asyncio.to_thread(data.fills, Settings(socket=daemon.path), "table", account="", since="")
    assert sentence in capsys.readouterr().out


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facade.cli", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_accounts_show_value_and_profit(demo: dict[str, str]) -> None:
    text = run(demo, "accounts").stdout.splitlines()
    assert text[0].split() == "account net liq. cash available excess liq. margin today unrealized currency".split()  # noqa: SIM905
    assert text[1].startswith("DU1234567  paper")
    whole = json.loads(run(demo, "accounts", "--json").stdout)["data"][0]
    assert whole["NetLiquidation"] > 0
    assert any(value["tag"] == "BuyingPower" for value in whole["values"])


def test_positions_are_a_table_json_and_csv_of_the_same_rows(demo: dict[str, str]) -> None:
    table = run(demo, "positions").stdout.splitlines()
    answer = json.loads(run(demo, "positions", "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(run(demo, "positions", "--csv").stdout)))
    assert len(table) - 1 == len(answer["data"]) == len(rows) > 0
    assert answer["meta"]["stale"] is False
    assert {row["symbol"] for row in rows} == {row["symbol"] for row in answer["data"]}
    assert "avg. cost" in table[0]


def test_orders_are_the_open_ones_unless_all_are_wanted(demo: dict[str, str]) -> None:
    opened = json.loads(run(demo, "orders", "--json").stdout)["data"]
    every = json.loads(run(demo, "orders", "--all", "--json").stdout)["data"]
    assert not any(row["done"] for row in opened)
    assert any(row["done"] for row in every)
    assert "Submitted" in run(demo, "orders").stdout


def test_fills_show_what_was_executed(demo: dict[str, str]) -> None:
    assert " BOT " in run(demo, "fills").stdout
    assert run(demo, "fills", "--since", "2999-01-01T00:00:00Z").stdout == "No fills.\n"
    assert run(demo, "fills", "--since", "yesterday").returncode == 2


def test_quotes_take_symbols_con_ids_and_currency_pairs(demo: dict[str, str]) -> None:
    done = run(demo, "quote", "AAPL", "272093", "EUR.USD")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)
    by_symbol = {row["symbol"]: row for row in json.loads(run(demo, "quote", "aapl", "--json").stdout)["data"]}
    assert by_symbol["AAPL"]["conId"] == 265598


def test_a_symbol_that_means_several_contracts_lists_them(demo: dict[str, str]) -> None:
    done = run(demo, "quote", "ES", "--type", "FUT")
    assert (done.returncode, done.stdout) == (1, "")
    candidates = json.loads(run(demo, "quote", "ES", "--type", "FUT", "--json").stdout)["candidates"]
    assert len(candidates) > 1
    assert all(str(one["conId"]) in done.stderr for one in candidates)
    assert run(demo, "quote", str(candidates[0]["conId"])).returncode == 0


def test_a_symbol_that_does_not_exist_is_named(demo: dict[str, str]) -> None:
    done = run(demo, "bars", "NOSUCH")
    assert done.returncode == 1
    assert done.stderr.startswith("NOSUCH: ")


def test_bars_are_as_long_and_as_far_back_as_wanted(demo: dict[str, str]) -> None:
    bars = json.loads(run(demo, "bars", "AAPL", "--size", "1 day", "--duration", "5 D", "--json").stdout)["data"]
    assert 3 <= len(bars) <= 5
    assert run(demo, "bars", "AAPL", "--size", "2 fortnights").returncode in (1, 2)


def test_without_a_link_nothing_is_shown_as_current(demo: dict[str, str]) -> None:
    assert run(demo, "disconnect").returncode == 0
    try:
        refused = run(demo, "positions")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "ibkr connect" in refused.stderr
        last = run(demo, "positions", "--stale")
        assert last.returncode == 0
        assert "Not current" in last.stderr
        done = run(demo, "reconnect")
        assert "you have disconnected" in done.stdout
    finally:
        assert run(demo, "connect").returncode == 0
    assert "Nothing to do" in run(demo, "reconnect").stdout


def test_a_reader_that_has_enough_ends_the_command_quietly(demo: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "facade.cli", "positions", "--csv"],
        env=demo,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(60)
