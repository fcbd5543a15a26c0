"""The programs for IBKR_REMEDY that the documentation shows, run as the daemon runs them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon.session.remedy import execute

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the examples are for a POSIX shell")

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
PROGRAMS = [body for body in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S) if body.startswith("#!")]


def program(tmp_path: Path, word: str, port: int = 0) -> Path:
    """The example with `word` in it, as an executable file."""
    (source,) = (body for body in PROGRAMS if word in body)
    path = tmp_path / "remedy"
    path.write_text(source.replace("7462", str(port)))
    path.chmod(0o755)
    return path


@asynccontextmanager
async def command_server(*, prompt: str, info: bool, known: str) -> AsyncIterator[tuple[int, list[str]]]:
    """IBC's command server: a line in, a line out; RESTART is answered and the connection closed."""
    received: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((b"INFO IBC Command Server\n" if info else b"") + prompt.encode())
        while line := await reader.readline():
            received.append(line.decode().strip())
            valid = received[-1].upper() == known
            writer.write(b"OK Restart in progress\n" if valid else b"ERROR Command invalid\n" + prompt.encode())
            if valid:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


@pytest.mark.parametrize(("prompt", "info"), [("", False), ("IBC> ", True)])
async def test_the_example_restarts_tws_through_ibcs_command_server(tmp_path: Path, prompt: str, info: bool) -> None:
    async with command_server(prompt=prompt, info=info, known="RESTART") as (port, received):
        outcome = await execute(program(tmp_path, "RESTART", port), dict(os.environ))
    assert (received, outcome) == (["RESTART"], "exit status 0")


async def test_an_ibc_that_refuses_or_is_not_there_is_a_failure(tmp_path: Path) -> None:
    async with command_server(prompt="IBC> ", info=True, known="STOP") as (port, received):
        refused = await execute(program(tmp_path, "RESTART", port), dict(os.environ))
    absent = await execute(program(tmp_path, "RESTART", port), dict(os.environ))
    assert (received, refused, absent) == (["RESTART"], "exit status 1", "exit status 1")


async def test_the_example_restarts_the_gateways_container(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/calls\n')
    docker.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert await execute(program(tmp_path, "docker"), {**os.environ, "PATH": path}) == "exit status 0"
    assert (tmp_path / "calls").read_text() == "restart --time 20 ib-gateway\n"
