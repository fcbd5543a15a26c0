from __future__ import annotations

import pytest

from daemon.link.events import FarmChanged, PortMoved, UpstreamLost, UpstreamRestored
from daemon.tws import error_text

IDLE = "data farm connection is inactive but should be available upon demand."
MOVED = "TWS socket port has been reset and this connection is being dropped. Please reconnect on the new port"


@pytest.mark.parametrize(
    ("code", "text", "farm", "kind", "state"),
    [
        (2103, "Market data farm connection is broken:usfarm", "usfarm", "market", "broken"),
        (2104, "Market data farm connection is OK:usfarm.nj", "usfarm.nj", "market", "ok"),
        (2105, "HMDS data farm connection is broken:ushmds", "ushmds", "hmds", "broken"),
        (2106, "HMDS data farm connection is OK:ushmds", "ushmds", "hmds", "ok"),
        (2107, f"HMDS {IDLE}ushmds", "ushmds", "hmds", "inactive"),
        (2108, f"Market {IDLE}usfarm.nj", "usfarm.nj", "market", "inactive"),
        (2119, "Market data farm is connecting:usfarm", "usfarm", "market", "connecting"),
        (2157, "Sec-def data farm connection is broken:secdefil", "secdefil", "secdef", "broken"),
        (2158, "Sec-def data farm connection is OK:secdefil", "secdefil", "secdef", "ok"),
        (2104, "Verbindung zur Marktdatenfarm ist in Ordnung: usfarm", "usfarm", "market", "ok"),
    ],
)  # fmt: skip
def test_a_farm_code_is_about_its_farm_alone(code: int, text: str, farm: str, kind: str, state: str):
    assert error_text.link_events(3, code, text) == (FarmChanged(session=3, farm=farm, type=kind, state=state),)


@pytest.mark.parametrize("code", [1100, 2110])
def test_the_codes_that_report_the_loss_of_upstream(code: int):
    assert error_text.link_events(3, code, "lost") == (UpstreamLost(session=3, code=code, text="lost"),)


def test_1101_has_lost_the_streams_and_1102_has_not():
    (lost,) = error_text.link_events(3, 1101, "restored- data lost.")
    (kept,) = error_text.link_events(3, 1102, "restored- data maintained.")

    assert lost == UpstreamRestored(session=3, code=1101, text="restored- data lost.", dataLost=True)
    assert isinstance(kept, UpstreamRestored)
    assert not kept.dataLost


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("restored- data maintained. All data farms are connected: ushmds; usfarm; secdefil.", "ok"),
        ("restored. The following farms are not connected: ushmds; usfarm; secdefil.", "broken"),
    ],
)
def test_1102_names_the_farms_that_are_not_back(text: str, state: str):
    """Or those that are connected: no 2104 or 2106 follows for them (a recorded session)."""
    _, *farms = error_text.link_events(3, 1102, f"Connectivity has been {text}")

    assert [(event.farm, event.type, event.state) for event in farms if isinstance(event, FarmChanged)] == [
        ("ushmds", "hmds", state),
        ("usfarm", "market", state),
        ("secdefil", "secdef", state),
    ]


def test_a_text_in_another_language_names_no_farms():
    assert len(error_text.link_events(3, 1102, "Hinweis: Verbindung wiederhergestellt")) == 1


@pytest.mark.parametrize(
    ("text", "port"),
    [
        (f"{MOVED} - 4003", 4003),
        ("Bitte über den neuen Port 7498 verbinden.", 7498),
        ("Please reconnect on the new port.", None),
        ("port - 123456", None),
    ],
)  # fmt: skip
def test_1300_names_the_port(text: str, port: int | None):
    assert error_text.link_events(3, 1300, text) == (PortMoved(session=3, port=port, text=text),)


def test_no_farm_or_order_code_touches_the_link():
    for code in (103, 104, 201, 202, 399, 10147, 10148, 2100, 10167, 354):
        assert error_text.link_events(3, code, "anything") == ()


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("two\r\nlines\tand \x1b[31mred", "two lines and  [31mred"),
        (r"d\u00e9j\u00e0", "déjà"),
        (r"Verbindung f\xfcr Marktdaten", "Verbindung für Marktdaten"),
        (r"a lone \ud800 surrogate", "a lone ? surrogate"),
        ("right\u202eto left", "right to left"),
        ("x" * 5000, "x" * error_text.LONGEST),
    ],
)
def test_a_text_is_one_readable_line(raw: str, line: str):
    assert error_text.clean(raw) == line


ENGLISH = "Error validating request.-'bY' : cause - The API interface is currently in Read-Only mode."


@pytest.mark.parametrize(
    ("code", "text", "reading_orders", "is_read_only"),
    [
        (321, ENGLISH, False, True),
        (321, ENGLISH, True, True),
        (321, "Fehler bei der Prüfung: Die API ist schreibgeschützt.", True, True),
        (321, "Fehler bei der Prüfung: Ungültiges Konto.", False, False),
        (321, "Error validating request.-'bO' : cause - Invalid account code", True, False),
        (322, ENGLISH, True, False),
    ],
)
def test_how_a_read_only_api_is_recognised(code: int, text: str, reading_orders: bool, is_read_only: bool):
    """By number and open request; the words only where they are known (FAULTS 46, 53)."""
    assert error_text.is_read_only(code, text, reading_orders=reading_orders) is is_read_only
