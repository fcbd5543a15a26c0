from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.ports import full_backlog


@pytest.fixture
def full() -> Iterator[socket.socket]:
    with full_backlog() as listener:
        yield listener
