"""A place for a socket, and a daemon's service that listens there."""

import sys
import uuid

import pytest

from shared.jsonrpc.server import RpcService, ServerConnection
from shared.transport import local_socket


@pytest.fixture
def path(tmp_path):
    """A place for a socket of this test's own."""
    return rf"\\.\pipe\ibkr-test-{uuid.uuid4()}" if sys.platform == "win32" else str(tmp_path / "daemon.sock")


@pytest.fixture
async def served(path):
    """A daemon's service at `path`, its methods and its end in the test's hands."""
    service = RpcService("ibkr/1.0", "E1", {})
    listener = await local_socket.listen(lambda: ServerConnection(service), path)
    yield service
    listener.close()
    await listener.wait_closed()
    await service.close()
