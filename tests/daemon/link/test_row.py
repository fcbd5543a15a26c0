"""The link row: every state in words, a proof with an age, a next attempt with a time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from daemon.link import events as ev
from daemon.link.row import Around, farms, row, words
from shared.messages import DaemonFacts, Expected, Farm, Pacing, Streams
from shared.messages import Link as LinkRow
from shared.reasons import LINK_REASONS, describe
from tests.daemon.link.test_machine import HOME, WEDNESDAY, Driver


def shown(driver: Driver, *, last_message: float | None = None, hints: tuple[str, ...] = ()) -> LinkRow:
    around = Around(
        epoch="e1",
        daemon=DaemonFacts(pid=1, version="test", uptimeS=0.0),
        expected=Expected(),
        last_message=last_message,
        rtt=None,
        proofLimit=10.0,
        streams=Streams(),
        pacing=Pacing(),
        hints=hints,
    )
    return row(driver.link, around, driver.monotonic, driver.wall)


def test_ready_is_connected_only_while_its_proof_is_young() -> None:
    driver = Driver().up()
    last_message = driver.monotonic

    assert shown(driver, last_message=last_message).connected
    assert shown(driver.after(9.9), last_message=last_message).connected
    assert not shown(driver.after(0.1), last_message=last_message).connected
    assert not shown(driver, last_message=None).connected
    assert (
        shown(driver, last_message=last_message).sentence
        != shown(driver, last_message=driver.monotonic).sentence
        == "Connected to IBKR."
    )


def test_a_proof_has_its_moment_and_its_age() -> None:
    driver = Driver().up()
    last_message = driver.monotonic
    proof = shown(driver.after(2.5), last_message=last_message).proof

    assert (proof.at, proof.ageMs) == (WEDNESDAY, 2500)


@pytest.mark.parametrize("reason", [name for name in LINK_REASONS if name != "accountMismatch"])
def test_each_reason_speaks_the_catalogues_words(reason: str) -> None:
    driver = Driver()
    driver.fails(reason)

    assert words(driver.link) == describe(reason, host="127.0.0.1", port=7497, clientId=1)


def test_a_mismatch_names_both_logins() -> None:
    driver = Driver(replace(HOME, account="U7654321"))
    driver.opens(("DU1234567",))
    sentence = shown(driver).sentence

    assert "U7654321" in sentence
    assert "DU1234567" in sentence


def test_hints_stand_before_the_advice() -> None:
    driver = Driver()
    driver.fails("portClosed")

    assert shown(driver, hints=("Look there.",)).advice == ("Look there.", *words(driver.link)[1])


def test_what_is_ready_or_under_way_gives_no_advice() -> None:
    driver = Driver()
    assert shown(driver).advice == ()
    driver.opens()
    assert shown(driver).advice == ()
    driver.syncs()
    assert (shown(driver).advice, shown(driver).reason) == ((), None)


def test_the_next_attempt_is_a_moment_of_the_wall_clock() -> None:
    driver = Driver()
    driver.fails("notTws")

    assert shown(driver.after(5)).nextAttemptAt == WEDNESDAY + timedelta(seconds=300)


def test_the_next_attempt_after_an_open_one_is_when_that_is_given_up() -> None:
    driver = Driver()
    driver.overdue()

    row = shown(driver.after(5))
    assert (row.phase, row.nextAttemptAt) == ("waiting", WEDNESDAY + timedelta(seconds=120))
    driver.post(ev.ReconnectRequested())
    assert shown(driver).nextAttemptAt is None


def test_target_and_configuration_are_both_shown() -> None:
    driver = Driver().up()
    driver.post(ev.PortMoved(session=1, port=7498, text="moved"))
    gateway = shown(driver).gateway

    assert gateway is not None
    assert (gateway.port, gateway.product, gateway.configured.port) == (7498, None, 7497)


def test_a_farm_keeps_its_since_while_its_state_lasts() -> None:
    driver = Driver().up()
    driver.post(ev.FarmChanged(session=1, farm="usfarm", type="market", state="ok"))
    first = farms(driver.link, {}, WEDNESDAY)
    assert first == {"usfarm": Farm(farm="usfarm", type="market", state="ok", since=WEDNESDAY)}
    held = {"usfarm": first["usfarm"]}

    assert farms(driver.link, held, WEDNESDAY + timedelta(hours=1)) == {}  # type: ignore[arg-type]
    driver.lost()
    assert farms(driver.link, held, WEDNESDAY) == {"usfarm": None}  # type: ignore[arg-type]
