"""What is wrong with a parameter, as its sender reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from shared.refusals import refusal


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    q: Annotated[str, msgspec.Meta(min_length=1, max_length=3)]
    scope: Literal["open", "completed", ""] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 1
    seconds: float = 1.0
    wait: bool = False
    ids: Annotated[str, msgspec.Meta(pattern=r"^\d+$")] = "1"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "q is missing."),
        ({"q": ""}, "q must not be empty."),
        ({"q": "long"}, "q must be a text of at most 3 characters."),
        ({"q": 5}, "q must be a text."),
        ({"q": "a", "scope": "all"}, "scope must be one of: open, completed."),
        ({"q": "a", "limit": "many"}, "limit must be a whole number."),
        ({"q": "a", "limit": 0}, "limit must be a whole number, at least 1."),
        ({"q": "a", "limit": 5001}, "limit must be a whole number, at most 5000."),
        ({"q": "a", "seconds": "x"}, "seconds must be a number."),
        ({"q": "a", "wait": "x"}, "wait must be true or false."),
        ({"q": "a", "ids": "x"}, r"ids must have the form ^\d+$."),
        ({"q": "a", "scop": "open"}, "There is no scop here; there are: q, scope, limit, seconds, wait, ids."),
    ],
)
def test_an_unacceptable_parameter_is_named_with_what_is_accepted(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(given, Wanted)
    assert refusal(refused.value, Wanted) == sentence


def test_a_text_of_another_form_is_passed_on() -> None:
    assert refusal(msgspec.ValidationError("Unlike the others - at `$.q[0]`")) == "Unlike the others (at q[0])."
