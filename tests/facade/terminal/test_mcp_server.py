"""`ibkr mcp` as an agent uses it: the SDK's own client on standard input and output, against a demonstration.

That client compares each result with the output schema of its tool.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from mcp import Client, MCPError, StdioServerParameters

CALLS: dict[str, dict[str, Any]] = {
    "link_status": {},
    "accounts": {},
    "account_summary": {},
    "positions": {},
    "orders": {"scope": "all"},
    "fills": {},
    "search_contracts": {"text": "AAPL"},
    "quote": {"contracts": ["AAPL", "EUR.USD", "272093"]},
    "bars": {"contract": "AAPL", "whatToShow": None},
    "diagnose": {},
}
HELD_BACK = ("accounts", "account_summary", "positions", "orders", "fills")
"""Tools that return last known rows only where stale ones are allowed."""

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the demonstration is stopped by a signal"),
    pytest.mark.timeout(240),
]


@asynccontextmanager
async def agent(environ: dict[str, str], *arguments: str) -> AsyncIterator[Client]:
    command = StdioServerParameters(command=sys.executable, args=["-m", "facade.cli", "mcp", *arguments], env=environ)
    async with Client(command) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    assert json.loads(done.content[0].text) == done.structured_content
    return done.structured_content


async def problem(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    done = await client.call_tool(tool, arguments)
    assert done.is_error
    found: dict[str, Any] = json.loads(done.content[0].text)
    return found


def ibkr(environ: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "facade.cli", *arguments], env=environ, capture_output=True, check=True)


async def test_every_tool_is_read_only_and_has_a_schema_of_its_rows(demo: dict[str, str]) -> None:
    async with agent(demo) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "Nothing can be changed" in (client.instructions or "")
    assert set(tools) == set(CALLS)
    for tool in tools.values():
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.output_schema is not None
        assert {"asOf", "stale", "data"} <= set(tool.output_schema["required"])
    positions = tools["positions"].output_schema
    assert positions is not None
    assert "avgCost" in positions["$defs"]["Position"]["properties"]


async def test_every_result_has_its_age_and_no_account_id(demo: dict[str, str]) -> None:
    async with agent(demo) as client:
        for tool, arguments in CALLS.items():
            result = await call(client, tool, **arguments)
            assert result["data"], tool
            assert result["asOf"], tool
            assert result["stale"] is False, tool
            assert "DU1234567" not in json.dumps(result), tool
        masked = (await call(client, "accounts"))["data"][0]["account"]
        assert (await call(client, "positions", account=masked))["data"]
        assert "DU7654321" not in json.dumps(await problem(client, "orders", account="DU7654321"))
    async with agent(demo, "--show-accounts") as client:
        assert (await call(client, "accounts"))["data"] == [{"account": "DU1234567", "paper": True}]


async def test_rows_beyond_the_limit_are_announced_and_can_be_read(demo: dict[str, str]) -> None:
    async with agent(demo) as client:
        everything = await call(client, "fills")
        first = await call(client, "fills", limit=1)
        rest = await call(client, "fills", since=first["data"][-1]["time"])
        newest = await call(client, "bars", contract="AAPL", limit=2)
        every = await call(client, "bars", contract="AAPL")
        position = await call(client, "positions", limit=1)
    assert (first["more"], rest["more"], everything["more"]) == (True, False, False)
    assert {row["execId"] for row in first["data"] + rest["data"]} == {row["execId"] for row in everything["data"]}
    assert (newest["more"], newest["data"]) == (True, every["data"][-2:])
    assert (position["more"], len(position["data"])) == (True, 1)


async def test_a_problem_is_a_tool_error_with_reason_and_advice(demo: dict[str, str]) -> None:
    async with agent(demo) as client:
        absent = await problem(client, "bars", contract="NOSUCH")
        wrong = [
            await problem(client, "positions", limit=0),
            await problem(client, "fills", since="yesterday"),
            await problem(client, "quote"),
            await problem(client, "accounts", order="BUY"),
            await problem(client, "bars", contract="AAPL", barSizeSetting="2 fortnights"),
        ]
        with pytest.raises(MCPError, match="place_order"):
            await client.call_tool("place_order", {})
    assert absent["reason"] == "notFound"
    assert absent["detail"].startswith("NOSUCH: ")
    assert "search_contracts" in absent["advice"][0]
    assert {one["reason"] for one in wrong} == {"invalidParameters"}
    assert "limit" in wrong[0]["detail"]


async def test_nothing_is_current_and_nothing_is_connected_while_the_link_is_held(demo: dict[str, str]) -> None:
    async with agent(demo) as client:
        assert (await call(client, "search_contracts", text="MSFT"))["stale"] is False
    ibkr(demo, "disconnect")
    try:
        async with agent(demo) as client:
            for tool in HELD_BACK:
                refused = await problem(client, tool)
                assert refused["reason"] == "manual", tool
                assert refused["advice"], tool
                last_known = await call(client, tool, allowStale=True)
                assert last_known["stale"] is True, tool
                assert last_known["data"], tool
            assert (await call(client, "search_contracts", text="MSFT"))["stale"] is True, "answered from memory"
            for tool, arguments in (("search_contracts", {"text": "IBM"}), ("quote", {"contracts": ["265598"]})):
                refused = await problem(client, tool, **arguments)
                assert refused["reason"] in ("manual", "notConnected"), tool
                assert "allowStale" not in json.dumps(refused), "these tools have no such argument"
            checks = {check["name"]: check for check in (await call(client, "diagnose"))["data"]}
            assert checks["gateway port"]["result"] == "skipped", "the doctor's own connection is not opened"
            link = (await call(client, "link_status"))["data"]
        assert (link["phase"], link["attempts"]) == ("held", 0)
        assert link["advice"]
    finally:
        ibkr(demo, "connect")


def test_ctrl_c_ends_the_server_at_once(demo: dict[str, str]) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode() + b"\n"
    command = [sys.executable, "-m", "facade.cli", "mcp"]
    with subprocess.Popen(command, env=demo, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == -signal.SIGINT
        finally:
            process.kill()


async def test_without_a_daemon_the_tools_name_that_problem(demo: dict[str, str], tmp_path: Path) -> None:
    alone = {name: value for name, value in demo.items() if name != "IBKR_ENV_FILE"}
    alone |= {"IBKR_SOCKET": str(tmp_path / "none.sock"), "IBKR_STATE_DIR": str(tmp_path / "state")}
    async with agent(alone) as client:
        refused = await problem(client, "link_status")
        checks = {check["name"]: check for check in (await call(client, "diagnose"))["data"]}
    assert refused["reason"] == "daemonUnreachable"
    assert refused["retryable"] is True
    assert refused["advice"]
    assert checks["daemon"]["result"] == "failed"
