"""`ibkr mcp` as an agent uses it: the SDK's own client on standard input and output, against a demonstration."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

TOOLS = {
    "link_status",
    "accounts",
    "account_summary",
    "positions",
    "orders",
    "fills",
    "search_contracts",
    "quote",
    "bars",
    "diagnose",
}
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the demonstration is stopped by a signal"),
    pytest.mark.timeout(240),
]


@asynccontextmanager
async def agent(environ: dict[str, str], *arguments: str) -> AsyncIterator[ClientSession]:
    command = StdioServerParameters(command=sys.executable, args=["-m", "facade.cli", "mcp", *arguments], env=environ)
    async with stdio_client(command) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def call(session: ClientSession, tool: str, **arguments: Any) -> dict[str, Any]:
    done = await session.call_tool(tool, arguments)
    assert not done.is_error, done.content
    assert done.structured_content is not None
    return done.structured_content


async def test_ten_read_only_tools_with_an_output_schema(demo: dict[str, str]) -> None:
    async with agent(demo) as session:
        tools = (await session.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.output_schema is not None
        assert {"asOf", "stale", "data"} <= set(tool.output_schema["properties"])
        assert tool.description


async def test_every_tool_answers_with_its_age_and_without_an_account_id(demo: dict[str, str]) -> None:
    calls: dict[str, dict[str, Any]] = {tool: {} for tool in TOOLS}
    calls |= {
        "search_contracts": {"text": "AAPL"},
        "quote": {"symbols": ["AAPL", "EUR.USD"]},
        "bars": {"symbol": "AAPL"},
    }
    async with agent(demo) as session:
        for tool, arguments in calls.items():
            result = await call(session, tool, **arguments)
            assert result["data"], tool
            assert result["asOf"], tool
            assert result["stale"] is False, tool
            assert "DU1234567" not in json.dumps(result), tool
        masked = (await call(session, "accounts"))["data"][0]["account"]
        assert (await call(session, "positions", account=masked))["data"]


async def test_account_ids_are_whole_where_that_is_wanted(demo: dict[str, str]) -> None:
    async with agent(demo, "--show-accounts") as session:
        assert (await call(session, "accounts"))["data"][0]["account"] == "DU1234567"


async def test_a_problem_is_a_tool_error_with_reason_and_advice(demo: dict[str, str]) -> None:
    async with agent(demo) as session:
        done = await session.call_tool("bars", {"symbol": "NOSUCH"})
    assert done.is_error
    problem = json.loads(
        done.content[0].text.partition(": ")[2] if done.content[0].text[0] != "{" else done.content[0].text
    )
    assert problem["reason"] == "notFound"
    assert problem["advice"]
