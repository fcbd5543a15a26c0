"""Signatures, and the file of their secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shared.alerts.signing import secret_of, signature
from shared.transport.private_paths import private_directory


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A directory of this user alone, as the state directory is."""
    directory = tmp_path / "state"
    with private_directory(str(directory), "IBKR_STATE_DIR"):
        pass
    return directory


needs_inheritance = pytest.mark.skipif(
    os.name == "nt", reason="needs real Windows: a file of wine does not inherit its directory's access list"
)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification."""
    secret = b"\x31\xf2\x8e"  # any bytes are a key
    assert signature(secret, "msg_1", 1614265330, b"{}").startswith("v1,")
    import base64

    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


@needs_inheritance
def test_a_missing_secret_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "alerts.secret"
    made = secret_of(path)

    assert secret_of(path) == made
    assert path.read_text().startswith("whsec_")
    assert [file.name for file in tmp_path.iterdir()] == ["alerts.secret"]
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@needs_inheritance
@pytest.mark.parametrize("content", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_what_is_no_secret_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "alerts.secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="holds no secret") as refused:
        secret_of(path)
    assert len(content) < 10 or content not in str(refused.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_secret_that_others_can_read_is_refused_with_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "alerts.secret"
    secret_of(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod"):
        secret_of(path)


def test_a_secret_in_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        secret_of(tmp_path / "missing" / "alerts.secret")


@needs_inheritance
def test_a_secret_that_is_there_is_only_read(tmp_path: Path) -> None:
    """Its directory may be one that cannot be written, as /run/secrets of a container."""
    path = tmp_path / "alerts.secret"
    made, before = secret_of(path), tmp_path.stat().st_mtime_ns

    assert (secret_of(path), tmp_path.stat().st_mtime_ns) == (made, before)


def test_a_secret_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"The secret for alerts in .* cannot be"):
        secret_of(tmp_path / "file" / "alerts.secret")
