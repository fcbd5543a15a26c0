"""`python -m daemon.simulator` runs on its own, obeys its control lines, and ends at Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator import Gateway, control
from daemon.simulator.__main__ import arguments
from tests.daemon.simulator.waiting import LIMIT, Raw

ROOT = Path(__file__).parents[3]


async def run(*options: str, stdin: bool = False) -> tuple[asyncio.subprocess.Process, int]:
    """Start it on a free port; the process and the port it says it is on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon.simulator",
        "--port",
        "0",
        *options,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("simulated gateway on 127.0.0.1:")
    return process, int(line.rpartition(":")[2])


async def ended(process: asyncio.subprocess.Process, number: int = signal.SIGINT) -> int:
    process.send_signal(number)
    async with asyncio.timeout(LIMIT):
        await process.communicate()
        return await process.wait()


async def test_it_serves_a_client_and_ends_at_ctrl_c() -> None:
    process, port = await run("--accounts", "2", "--positions", "5", "--fault", "delay=0.01,positions")
    client = await Raw.open(port)
    assert await client.until("15") == ["15", "1", "DU1234567,DU1234568"]
    client.send(61, 1)
    await client.until("62")

    assert await ended(process) == 0


async def test_its_standard_input_takes_verbs() -> None:
    process, port = await run("--control", "-", stdin=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"refuse\nnonsense\nstatus\nquit\n")
    async with asyncio.timeout(LIMIT):
        answers = [(await process.stdout.readline()).decode().strip() for _ in range(4)]
        process.stdin.close()
        status = await process.wait()

    assert answers[0] == "ok"
    assert answers[1].startswith("error: there is no 'nonsense'")
    assert (json.loads(answers[2])["port"], json.loads(answers[2])["listening"]) == (port, False)
    assert (answers[3], status) == ("ok", 0)


@pytest.mark.parametrize(
    "options",
    [
        *(["--fault", "explode"], ["--fault", "delay=x"], ["--fault", "delay=nan"], ["--fault", "nightly-reset=15,0"]),
        *(["--accounts", "0"], ["--accounts", "many"], ["--positions", "-1"], ["--tick-rate", "inf"]),
        *(["--port", "x"], ["--port", "70000"]),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(options)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fill=AAPL,0", "more or less than 0"),
        ("fill=AAPL,1,200,1,DU999", "there is no account DU999"),
        ("fill=AAPL,1,-5", "not above 0"),
        ("place=AAPL,0,100", "434 The order size cannot be zero"),
        ("place=AAPL,1,100.003", "110 The price does not conform"),
        ("correct-fill=0000e0d5.x,201", "nothing is called"),
        ("cancel=1", "nothing is called"),
        ("flood=inf,1", "not a finite number"),
        ("close-during=positions,-1", "below 0"),
    ],
)
async def test_a_verb_that_cannot_be_is_refused_and_changes_nothing(gateway: Gateway, line: str, words: str) -> None:
    world = gateway.world

    def facts() -> object:
        return len(world.orders), len(world.fills), sorted(world.positions), dict(world.cash)

    before = facts()
    answer = control.obey(gateway, line, lambda: None)

    assert answer.startswith("error: ")
    assert words in answer
    assert facts() == before


async def test_an_order_that_is_done_is_not_cancelled_again(gateway: Gateway) -> None:
    filled = next(order for order in gateway.world.orders.values() if order.status == "Filled")

    assert control.obey(gateway, f"cancel={filled.permId}", lambda: None).startswith("error: ")
    assert filled.status == "Filled"


def test_an_advisor_is_chosen_by_name() -> None:
    assert arguments(["--accounts", "fa5"]).accounts == (5, "DF1234566")
    assert arguments([]).accounts == (1, "")


# the control socket


@pytest.fixture
async def socket_path(gateway: Gateway, tmp_path: Path) -> AsyncIterator[tuple[str, asyncio.Event]]:
    quit_ = asyncio.Event()
    path = str(tmp_path / "control")
    async with control.unix_socket(gateway, path, quit_.set):
        yield path, quit_
    assert not (tmp_path / "control").exists()


async def talk(path: str, *lines: str) -> list[str]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write("".join(f"{line}\n" for line in lines).encode())
    async with asyncio.timeout(LIMIT):
        answers = [(await reader.readline()).decode().strip() for _ in lines]
    writer.close()
    await writer.wait_closed()
    return answers


@pytest.mark.skipif(not hasattr(asyncio, "open_unix_connection"), reason="Windows has no Unix sockets in asyncio")
async def test_the_control_socket_obeys_and_explains(gateway: Gateway, socket_path: tuple[str, asyncio.Event]) -> None:
    path, quit_ = socket_path
    answers = await talk(
        path, "freeze", "thaw", "fill=AAPL,10,200", "fill=NOSUCH,1", "delay=", "help", "status", "quit"
    )

    assert answers[:2] == ["ok", "ok"]
    assert answers[2] == f"ok {gateway.world.fills[-1].execId}"
    assert answers[3].startswith("error: nothing is called")
    assert answers[4].startswith("error: delay: takes")
    assert "freeze: stop reading and writing" in answers[5]
    assert json.loads(answers[6])["port"] == gateway.port
    assert quit_.is_set()
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(asyncio, "open_unix_connection"), reason="Windows has no Unix sockets in asyncio")
async def test_a_dead_control_socket_is_replaced_and_nothing_else_is(gateway: Gateway, tmp_path: Path) -> None:
    path = str(tmp_path / "control")
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    with pytest.raises(FileExistsError, match="in use"):
        async with control.unix_socket(gateway, path, lambda: None):
            pass
    server.close()
    await server.wait_closed()
    async with control.unix_socket(gateway, path, lambda: None):
        assert await talk(path, "thaw") == ["ok"]
    (tmp_path / "control").write_text("mine")
    with pytest.raises(FileExistsError, match="no socket"):
        async with control.unix_socket(gateway, path, lambda: None):
            pass
    assert (tmp_path / "control").read_text() == "mine"


async def test_a_control_line_without_an_end_is_refused(gateway: Gateway) -> None:
    written: list[bytes] = []

    class Wire(asyncio.WriteTransport):
        closed = False

        def write(self, data: Any) -> None:
            written.append(bytes(data))

        def close(self) -> None:
            self.closed = True

    peer, wire = control.ControlPeer(gateway, lambda: None, set()), Wire()
    peer.connection_made(wire)
    peer.data_received(b"x" * (control.LONGEST_LINE + 1))

    assert wire.closed
    assert written == [b"error: the line is too long\n"]
