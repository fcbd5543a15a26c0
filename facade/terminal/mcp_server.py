"""`ibkr mcp`: the tools of `agent_tools.py` as a Model Context Protocol server on standard input and output."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from mcp import MCPError
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    TextContent,
    ToolAnnotations,
)
from mcp.types import Tool as ToolDescription

from facade.terminal.agent_tools import TOOLS, Session, Stale, with_masked_accounts
from facade.terminal.requests import Failure
from shared.clock import SystemClock
from shared.reasons import CATALOGUE
from shared.refusals import refusal
from shared.settings import Settings

INSTRUCTIONS = (
    "Reads one session with Interactive Brokers: its link, accounts, positions, orders, fills, contracts and prices. "
    "Nothing can be changed: no tool connects, disconnects, or places, changes or cancels an order. Every result has "
    "asOf (when the data was current) and stale (true: last known, not current); mention it when you use stale data. "
    "A list that is not known is an error, never an empty list. An error has a reason and advice for the user."
)

REFERENCE = "#/$defs/{name}"


def serve(settings: Settings, environ: Mapping[str, str], *, version: str, show_accounts: bool) -> None:
    """Serve until the client closes standard input. `show_accounts`: whole account ids; else they are masked."""
    if sys.stdin.isatty():
        print("Waiting for an MCP client on standard input; see docs/agents.md.", file=sys.stderr)
    session = Session(settings, environ, SystemClock())

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=descriptions())

    async def call_tool(_context: Any, params: CallToolRequestParams) -> CallToolResult:
        if params.name not in TOOLS:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r}.")
        # the client of the daemon's socket waits in a thread; a cancelled call leaves it to its own deadline
        return await asyncio.to_thread(call, session, params.name, params.arguments or {}, show_accounts)

    server: Server[Any] = Server(
        "ibkr",
        title="Interactive Brokers, read-only",
        version=version,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    # the SDK reads standard input in a thread, for which a KeyboardInterrupt waits; nothing here needs a clean end
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(run())


def descriptions() -> list[ToolDescription]:
    """The tools as `tools/list` shows them."""
    return [
        ToolDescription(
            name=name,
            title=tool.title,
            description=tool.description,
            input_schema=schema(tool.arguments),
            output_schema=schema(tool.result),
            annotations=ToolAnnotations(
                read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
            ),
        )
        for name, tool in TOOLS.items()
    ]


def schema(of: Any) -> dict[str, Any]:
    """The JSON Schema of a struct, with an object at its root, as the protocol requires."""
    (root,), definitions = msgspec.json.schema_components([of], ref_template=REFERENCE)
    members: dict[str, Any] = definitions.pop(root["$ref"].rpartition("/")[2])
    return {**members, "$defs": definitions} if definitions else members


def call(session: Session, name: str, given: Mapping[str, Any], show_accounts: bool) -> CallToolResult:
    """The result of tool `name`; a failure is a tool error with reason, detail and advice."""
    tool = TOOLS[name]
    try:
        present = {key: value for key, value in given.items() if value is not None}
        arguments = msgspec.convert(present, tool.arguments)
    except msgspec.ValidationError as error:
        return _error("invalidParameters", refusal(error, tool.arguments), (), {})
    try:
        reading = tool.read(session, arguments)
    except Failure as failure:
        advice = [line for line in failure.advice if "allowStale" not in line or issubclass(tool.arguments, Stale)]
        shown = [failure.detail, advice, failure.extra]
        return _error(failure.reason, *(shown if show_accounts else with_masked_accounts(shown)))
    content = {
        "asOf": reading.as_of,
        "stale": reading.stale,
        "session": session.settings.session,
        "more": reading.more,
        "data": reading.data if show_accounts else with_masked_accounts(reading.data),
    }
    text = json.dumps(content, ensure_ascii=False)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=content)


def _error(reason: str | None, detail: str, advice: Sequence[str], extra: Mapping[str, Any]) -> CallToolResult:
    entry = CATALOGUE.get(reason or "")
    problem = {
        "reason": reason,
        "detail": detail,
        "advice": list(advice),
        "retryable": entry is not None and entry.retryable,
        **extra,
    }
    text = json.dumps(problem, ensure_ascii=False)
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
