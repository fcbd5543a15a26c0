"""How the system's wish to end reaches the loop."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from daemon.signals import stop_on_signals

ENDS = ("SIGINT", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
LIMIT = 60.0


@pytest.mark.parametrize("name", ENDS)
async def test_a_signal_becomes_a_call_in_the_loop(name: str) -> None:
    stop = asyncio.Event()
    with stop_on_signals(asyncio.get_running_loop(), stop.set):
        signal.raise_signal(getattr(signal, name))
        signal.raise_signal(getattr(signal, name))
        async with asyncio.timeout(LIMIT):
            await stop.wait()


@pytest.mark.parametrize("name", ENDS)
async def test_afterwards_signals_are_what_they_were(name: str) -> None:
    before = signal.getsignal(getattr(signal, name))
    with stop_on_signals(asyncio.get_running_loop(), lambda: None):
        assert signal.getsignal(getattr(signal, name)) != before
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.skipif(sys.platform == "win32", reason="nohup")
async def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(asyncio.get_running_loop(), lambda: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
async def test_a_signal_without_a_meaning_here_is_ignored(name: str) -> None:
    stop = asyncio.Event()
    with stop_on_signals(asyncio.get_running_loop(), stop.set):
        signal.raise_signal(getattr(signal, name))
        await asyncio.sleep(0)
        assert not stop.is_set()


async def test_in_another_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()

    def elsewhere() -> object:
        with stop_on_signals(loop, lambda: None):
            return signal.getsignal(signal.SIGINT)

    assert await asyncio.to_thread(elsewhere) == before
