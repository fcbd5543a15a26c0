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
from tests.daemon.link.test_machine import HOME, WEDNESDAY, Told


def shown(told: Told, *, heard: float | None = None, hints: tuple[str, ...] = ()) -> LinkRow:
    around = Around(
        epoch="e1",
        daemon=DaemonFacts(pid=1, version="test", uptimeS=0.0),
        expected=Expected(),
        heard=heard,
        rtt=None,
        proofLimit=10.0,
        streams=Streams(),
        pacing=Pacing(),
        hints=hints,
    )
    return row(told.link, around, told.monotonic, told.wall)


def test_ready_is_connected_only_while_its_proof_is_young() -> None:
    told = Told().up()
    heard = told.monotonic

    assert shown(told, heard=heard).connected
    assert shown(told.after(9.9), heard=heard).connected
    assert not shown(told.after(0.1), heard=heard).connected
    assert not shown(told, heard=None).connected
    assert shown(told, heard=heard).sentence != shown(told, heard=told.monotonic).sentence == "Connected to IBKR."


def test_a_proof_has_its_moment_and_its_age() -> None:
    told = Told().up()
    heard = told.monotonic
    proof = shown(told.after(2.5), heard=heard).proof

    assert (proof.at, proof.ageMs) == (WEDNESDAY, 2500)


@pytest.mark.parametrize("reason", [name for name in LINK_REASONS if name != "accountMismatch"])
def test_each_reason_speaks_the_catalogues_words(reason: str) -> None:
    told = Told()
    told.fails(reason)

    assert words(told.link) == describe(reason, host="127.0.0.1", port=7497, clientId=1)


def test_a_mismatch_names_both_logins() -> None:
    told = Told(replace(HOME, account="U7654321"))
    told.opens(("DU1234567",))
    sentence = shown(told).sentence

    assert "U7654321" in sentence
    assert "DU1234567" in sentence


def test_hints_stand_before_the_advice() -> None:
    told = Told()
    told.fails("portClosed")

    assert shown(told, hints=("Look there.",)).advice == ("Look there.", *words(told.link)[1])


def test_what_is_ready_or_under_way_gives_no_advice() -> None:
    told = Told()
    assert shown(told).advice == ()
    told.opens()
    assert shown(told).advice == ()
    told.syncs()
    assert (shown(told).advice, shown(told).reason) == ((), None)


def test_the_next_attempt_is_a_moment_of_the_wall_clock() -> None:
    told = Told()
    told.fails("notTws")

    assert shown(told.after(5)).nextAttemptAt == WEDNESDAY + timedelta(seconds=300)


def test_the_next_attempt_after_an_open_one_is_when_that_is_given_up() -> None:
    told = Told()
    told.overdue()

    row = shown(told.after(5))
    assert (row.phase, row.nextAttemptAt) == ("waiting", WEDNESDAY + timedelta(seconds=120))
    told.tell(ev.ReconnectAsked())
    assert shown(told).nextAttemptAt is None


def test_target_and_configuration_are_both_shown() -> None:
    told = Told().up()
    told.tell(ev.PortMoved(session=1, port=7498, text="moved"))
    gateway = shown(told).gateway

    assert gateway is not None
    assert (gateway.port, gateway.product, gateway.configured.port) == (7498, None, 7497)


def test_a_farm_keeps_its_since_while_its_state_lasts() -> None:
    told = Told().up()
    told.tell(ev.FarmChanged(session=1, farm="usfarm", type="market", state="ok"))
    first = farms(told.link, {}, WEDNESDAY)
    assert first == {"usfarm": Farm(farm="usfarm", type="market", state="ok", since=WEDNESDAY)}
    held = {"usfarm": first["usfarm"]}

    assert farms(told.link, held, WEDNESDAY + timedelta(hours=1)) == {}  # type: ignore[arg-type]
    told.lost()
    assert farms(told.link, held, WEDNESDAY) == {"usfarm": None}  # type: ignore[arg-type]
