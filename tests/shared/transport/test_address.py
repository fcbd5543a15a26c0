import os
import sys

import pytest

from shared.transport import address
from shared.transport.address import default_path

posix = pytest.mark.skipif(sys.platform == "win32", reason="runtime directories are Unix's")


def test_the_setting_wins():
    assert default_path({"IBKR_SOCKET": "/x/y", "XDG_RUNTIME_DIR": "/run/user/0"}) == "/x/y"


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one place")
def test_the_runtime_directory_is_used_where_it_is_private(tmp_path):
    """One that is missing, relative, or open to others is as good as none: then a directory below the state's is."""
    runtime, state = tmp_path / "runtime", tmp_path / "state"
    runtime.mkdir(0o700)
    env = {"HOME": "/nowhere", "XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(state)}

    assert default_path(env) == str(runtime / "ibkr" / "daemon.sock")

    fallback = {str(state / "ibkr" / "run" / "daemon.sock"), f"/run/user/{os.getuid()}/ibkr/daemon.sock"}
    runtime.chmod(0o755)
    assert default_path(env) in fallback
    for unusable in ("relative", str(tmp_path / "missing"), ""):
        assert default_path(env | {"XDG_RUNTIME_DIR": unusable}) in fallback


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one place")
def test_without_home_the_password_file_knows(monkeypatch):
    monkeypatch.setattr(address, "_is_private", lambda _: False)

    assert default_path({}).endswith("/.local/state/ibkr/run/daemon.sock")
    assert default_path({"HOME": "/h"}) == "/h/.local/state/ibkr/run/daemon.sock"
