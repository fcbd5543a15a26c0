"""Guesses beside a reason's advice: only where something suggests them, and worded as guesses."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.link import events as ev
from daemon.link.hints import hints, listening
from shared.settings import STANDARD_PORTS
from tests.daemon.link.test_machine import AWAY, HOME, Driver


def test_a_closed_port_beside_an_open_standard_one_is_probably_the_wrong_port() -> None:
    driver = Driver()
    driver.fails("portClosed")

    assert hints(driver.link, {4002, 7497}) == (
        "Probably another port is meant: something listens on 4002 (Gateway paper).",
    )
    assert hints(driver.link, {7497}) == ()
    assert hints(driver.link, ()) == ()


def test_a_listener_here_is_no_hint_about_another_host() -> None:
    driver = Driver(AWAY)
    driver.fails("portClosed")

    assert hints(driver.link, {4002}) == ()


@pytest.mark.parametrize("reason", ["handshakeTimeout", "closedDuringHandshake"])
def test_a_name_that_was_dialled_as_ipv6_is_probably_not_trusted(reason: str) -> None:
    driver = Driver(replace(HOME, host="localhost"))
    driver.post(ev.Dialled(session=1, peer="::1"))
    driver.fails(reason)

    assert hints(driver.link, ()) == (
        "localhost was dialled as ::1, and TWS probably trusts only 127.0.0.1: set IBKR_HOST=127.0.0.1.",
    )


def test_an_address_that_was_meant_is_no_surprise() -> None:
    for host, peer in (("::1", "::1"), ("localhost", "127.0.0.1")):
        driver = Driver(replace(HOME, host=host))
        driver.post(ev.Dialled(session=1, peer=peer))
        driver.fails("handshakeTimeout")
        assert hints(driver.link, ()) == ()


def test_only_standard_ports_are_looked_at() -> None:
    assert listening() <= set(STANDARD_PORTS)


def test_a_login_that_differs_from_the_last_one_may_be_meant() -> None:
    driver = Driver().up()
    driver.lost()
    driver.opens(("U7654321",))
    assert hints(driver.link, ()) == ("If this login is meant, connect once by hand: that is taken for a yes.",)

    driver = Driver(replace(HOME, account="DU1234567"))
    driver.opens(("U7654321",))
    assert hints(driver.link, ()) == (), "a configured account is meant as it is"
