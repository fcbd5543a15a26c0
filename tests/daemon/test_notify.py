import socket
import sys

import pytest

from daemon.notify import READY, notify

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is Linux's")


def test_the_word_arrives_at_a_path(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(60)

        assert notify(address, READY)
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_the_word_arrives_at_an_abstract_name(tmp_path):
    name = f"ibkr-notify-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name)
        systemd.settimeout(60)

        assert notify("@" + name, READY)
        assert systemd.recv(100) == b"READY=1"


def test_no_systemd_is_no_trouble(tmp_path):
    assert not notify("", READY)
    assert not notify(str(tmp_path / "absent"), READY)
