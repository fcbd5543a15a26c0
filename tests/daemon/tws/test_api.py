from __future__ import annotations

import gc
import inspect
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import ib_async
import pytest
from ib_async.client import Client
from ib_async.decoder import Decoder
from ib_async.wrapper import Wrapper

from daemon.simulator import Gateway, World
from daemon.tws import Limits
from daemon.tws.api import IDS_A_SESSION, REQUEST_IDS, SESSIONS, VERSION, check_version, plain_time
from daemon.tws.callbacks import Callbacks
from daemon.tws.gate import Lane
from tests.daemon.tws.sessions import synced

ROOT = Path(__file__).resolve().parents[3]


def test_the_ib_async_we_know_is_the_one_installed():
    """Its insides are what this package counts on: another release has to be read first."""
    assert version("ib_async") == VERSION
    check_version()


def test_another_ib_async_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ib_async, "__version__", "2.2.0")
    with pytest.raises(RuntimeError, match=r"ib_async==2\.1\.0"):
        check_version()


def test_every_callback_is_one_of_the_decoders():
    """A misspelled or renamed callback would be silence."""
    ours = {name for name, value in vars(Callbacks).items() if inspect.isfunction(value) and not name.startswith("_")}
    source = inspect.getsource(Decoder) + inspect.getsource(Client)

    assert all(hasattr(Wrapper, name) for name in ours)
    assert [name for name in ours if f'"{name}"' not in source and f"wrapper.{name}(" not in source] == []


async def test_nothing_waits_behind_our_gate():
    """ib_async would make a probe wait behind whatever was sent in the last second."""
    async with Gateway(World(positions=1)) as gateway, synced(gateway, limits=Limits(rate=1000)) as made:
        for _ in range(100):
            made.tws.gate.send(Lane.READ, made.tws.api.client.reqPositions)

        assert not made.tws.gate.waiting
        assert not made.tws.api.client._msgQ


def test_request_ids_are_numbers_ibkr_takes():
    assert REQUEST_IDS + SESSIONS * IDS_A_SESSION < 2**31


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("20261125 10:00:00 US/Eastern", "20261125 10:00:00 US/Eastern"),
        ("20261125 10:00:00 Nowhere/Atlantis", "20261125  10:00:00"),
        ("20261125 10:00:00 GMT+08:00 中国", "20261125  10:00:00"),
        ("20261125  10:00:00", "20261125  10:00:00"),
        ("20261125-10:00:00", "20261125 10:00:00 UTC"),
        ("20261125", "20261125"),
    ],
)
def test_times_that_ib_async_would_misread(said: str, read: str):
    assert plain_time(said) == read


async def test_a_session_keeps_its_loggers_quiet_and_its_queue_empty(caplog: pytest.LogCaptureFixture):
    """ib_async says a line for each position and order; and what it queues, nobody can order by priority."""
    caplog.set_level(logging.INFO)
    async with Gateway(World(accounts=("DU1000001", "DU1000002"))) as gateway, synced(gateway) as made:
        assert not made.tws.api.client._msgQ
        assert not made.tws.api.client._isThrottling

    assert [record.getMessage() for record in caplog.records if record.name.startswith("ib_async")] == []


def test_numpy_is_not_loaded_and_not_broken():
    """A third of the daemon's memory, for operators nobody uses; who wants numpy gets the real one."""
    program = "import sys, daemon.tws; assert 'numpy' not in sys.modules; import numpy; numpy.asarray([1])"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


async def test_a_session_that_is_over_is_forgotten_silently(monkeypatch: pytest.MonkeyPatch):
    """ib_async's own object disconnects as it is collected, in whatever state the loop is."""
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    async with Gateway(World()) as gateway:
        async with synced(gateway) as made:
            pass
        del made
        gc.collect()

    assert complaints == []
