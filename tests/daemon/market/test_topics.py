"""The names of topics that come and go."""

from __future__ import annotations

import pytest

from daemon.market.topics import Spec, read
from shared.reasons import Problem


@pytest.mark.parametrize(
    ("topic", "spec", "spelled"),
    [
        ("quotes:265598", Spec("quotes", 265598), "quotes:265598"),
        ("bars:265598:5mins", Spec("bars", 265598, "5 mins"), "bars:265598:5mins"),
        ("bars:265598:5 mins", Spec("bars", 265598, "5 mins"), "bars:265598:5mins"),
        ("bars:1:1day", Spec("bars", 1, "1 day"), "bars:1:1day"),
    ],
)
def test_a_topic_has_one_spelling_and_ibkrs_own_is_understood(topic: str, spec: Spec, spelled: str) -> None:
    assert read(topic) == spec
    assert read(topic).topic == spelled


NUMBERS = ("", "0", "01", "-1", "1 ", "x", "9223372036854775808", "1\u0663")


@pytest.mark.parametrize(
    "topic",
    [
        *(f"quotes:{number}" for number in NUMBERS),
        *(f"bars:{number}:1min" for number in NUMBERS),
        *(f"bars:1{size}" for size in ("", ":", ":7mins", ":1secs", ":1min\n", ":1min:")),
        "",
        "link",
    ],
)
def test_what_is_no_topic_is_refused_with_what_is(topic: str) -> None:
    with pytest.raises(Problem, match="quotes:CONID") as raised:
        read(topic)
    assert raised.value.reason == "invalidParameters"
