from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import ib_async
import pytest

from daemon.tws.callbacks import Callbacks
from daemon.tws.client import IDS_A_SESSION, REQUEST_IDS, SESSIONS, VERSION, check_version
from daemon.tws.decoder import MessageDecoder
from shared.clock import SystemClock

ROOT = Path(__file__).resolve().parents[3]


def test_the_installed_ib_async_is_the_pinned_one():
    """Its insides are what this package counts on: another release has to be read first."""
    assert version("ib_async") == VERSION
    check_version()


def test_another_ib_async_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ib_async, "__version__", "2.2.0")
    with pytest.raises(RuntimeError, match=r"ib_async==2\.1\.0"):
        check_version()


def test_every_callback_is_one_of_the_decoders():
    ours = {name for name, value in vars(Callbacks).items() if inspect.isfunction(value) and not name.startswith("_")}
    named = set(MessageDecoder(Callbacks, lambda *_: None, SystemClock.now).names.values())

    assert ours - named == set()


def test_request_ids_are_numbers_ibkr_takes():
    assert REQUEST_IDS + SESSIONS * IDS_A_SESSION < 2**31
