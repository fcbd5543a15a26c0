import os
import sys

import pytest

if sys.platform != "win32":
    pytest.skip("security descriptors are Windows'", allow_module_level=True)

import _winapi

from shared.transport import windows_security as security
from shared.transport.private_paths import UnsafePath, claim, closing, private_directory


def make_open(path):
    """A directory that lets every user in."""
    with security._attributes(
        f"O:{security.own_sid()}D:P(A;OICI;FA;;;{security.own_sid()})(A;OICI;FA;;;WD)"
    ) as attributes:
        security._check(security._make_directory(str(path), attributes))


def test_what_we_make_is_closed_to_others(tmp_path):
    with private_directory(str(tmp_path / "a" / "b"), "IBKR_STATE_DIR"):
        pass

    for made in ("a", "a/b"):
        access = security.access_of_path(str(tmp_path / made))
        assert access.owner == security.own_sid()
        assert not access.open_to_others


def test_a_directory_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path):
    make_open(tmp_path / "open")

    with pytest.raises(UnsafePath, match="icacls"):
        claim(tmp_path / "open")

    assert security.access_of_path(str(tmp_path / "open")).open_to_others


def test_a_token_file_open_to_others_is_distinguished_from_a_closed_one(tmp_path):
    for name, sddl in {"open": "(A;;FA;;;WD)", "closed": f"(A;;FA;;;{security.own_sid()})"}.items():
        with security._attributes(f"O:{security.own_sid()}D:P{sddl}") as attributes:
            _winapi.CloseHandle(_winapi.CreateFile(str(tmp_path / name), _winapi.GENERIC_WRITE, 0, attributes, 2, 0, 0))

    assert "icacls" in closing(str(tmp_path / "open"), 0)
    assert closing(str(tmp_path / "closed"), 0) == ""


@pytest.mark.real_windows
def test_the_command_in_the_text_closes_it(tmp_path):
    make_open(tmp_path / "open")
    with pytest.raises(UnsafePath) as refused:
        claim(tmp_path / "open")

    assert os.system(str(refused.value).split("Close it: ")[1]) == 0
    claim(tmp_path / "open").release()


@pytest.mark.real_windows
def test_a_junction_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    assert os.system(f'mklink /J "{tmp_path / "link"}" "{tmp_path / "real"}"') == 0

    with pytest.raises(UnsafePath, match="is a link"):
        claim(tmp_path / "link")


@pytest.mark.real_windows
def test_the_profile_is_private_as_it_is(tmp_path):
    assert not security.access_of_path(os.environ["LOCALAPPDATA"]).open_to_others
