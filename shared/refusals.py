"""Why a parameter is not acceptable, as a sentence for its sender; msgspec's own texts name Python's types."""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<field>[^`]*)`)?", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]+)`", re.DOTALL)
EXPECTED = re.compile(
    r"Expected `(?P<kind>[a-z]+)`(?: of length)?(?: (?P<bound>>=|<=|>|<) (?P<limit>[-\d.e+]+))?.*", re.DOTALL
)
FORM = re.compile(r"Expected `str` matching regex (?P<pattern>'.*'|\".*\")", re.DOTALL)
BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}


def refusal(error: msgspec.DecodeError, wanted: type[msgspec.Struct] | None = None) -> str:
    """One sentence about `error`; with the struct that was `wanted`, it names what is accepted.

    A text of msgspec that is not known here is given as it is.
    """
    text = str(error)
    at = AT.fullmatch(text)
    what, field = (at["what"], at["field"] or "") if at else (text, "")
    if missing := MISSING.fullmatch(what):
        return f"{'.'.join(filter(None, [field, missing['name']]))} is missing."
    if unknown := UNKNOWN.fullmatch(what):
        names = msgspec.structs.fields(wanted) if wanted is not None and not field else ()
        accepted = ", ".join(each.encode_name for each in names)
        return f"There is no {unknown['name']:.40} here" + (f"; there are: {accepted}." if accepted else ".")
    if what.startswith("Invalid enum value") and (accepted := _choices(wanted, field)):
        return f"{field} must be one of: {accepted}."
    if form := FORM.fullmatch(what):
        return f"{field or 'The value'} must have the form {literal_eval(form['pattern'])}."
    expected = EXPECTED.fullmatch(what)
    if expected is None or expected["kind"] not in KINDS:
        return f"{what[:200]} (at {field})." if field else f"{what[:200]}."
    kind = KINDS[expected["kind"]]
    if (expected["kind"], expected["bound"], expected["limit"]) == ("str", ">=", "1"):
        return f"{field or 'The value'} must not be empty."
    if expected["bound"]:
        unit = {"str": " characters", "array": " entries"}.get(expected["kind"], "")
        kind += f"{' of' if unit else ','} {BOUNDS[expected['bound']]} {expected['limit']}{unit}"
    return f"{field or 'The value'} must be {kind}."


def _choices(wanted: type[msgspec.Struct] | None, field: str) -> str:
    hint = get_type_hints(wanted).get(field) if wanted is not None else None
    return ", ".join(str(each) for each in get_args(hint) if each != "") if get_origin(hint) is Literal else ""
