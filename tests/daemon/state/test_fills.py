"""What stays true of an execution however often and in whatever order it is reported."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from daemon.state.fills import identity, newer
from tests.rows import fill

FILL = fill("0000e0d5.6534a1f2.01.01", datetime(2026, 1, 2, 15, 0, tzinfo=UTC))


def test_a_correction_has_the_identity_of_what_it_corrects() -> None:
    assert identity("a.b.01.01") == ("a.b.01", 1)
    assert identity("a.b.01.02") == ("a.b.01", 2)
    assert identity("plain") == ("plain", 0)
    assert identity("a.bc") == ("a.bc", 0)


def test_the_same_fill_reported_again_adds_nothing() -> None:
    assert newer(None, FILL) == FILL
    assert newer(FILL, FILL) is None
    assert newer(FILL, replace(FILL, recovered=True)) is None


def test_a_correction_has_its_own_facts() -> None:
    first = replace(FILL, recovered=True, commission=1.25, commissionCurrency="USD", realizedPNL=3.0)
    correction = replace(FILL, execId="0000e0d5.6534a1f2.01.02", price=6.0)

    assert newer(first, correction) == correction
    assert newer(correction, replace(correction, commission=1.0, recovered=True)) == replace(correction, commission=1.0)


def test_a_commission_once_reported_stays() -> None:
    paid = replace(FILL, commission=1.25, commissionCurrency="USD", realizedPNL=3.0)

    assert newer(FILL, paid) == paid
    assert newer(paid, FILL) is None


def test_an_older_revision_changes_nothing() -> None:
    correction = replace(FILL, execId="0000e0d5.6534a1f2.01.02", price=6.0)

    assert newer(correction, FILL) is None
