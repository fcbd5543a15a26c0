"""The gateway's verbs by name, for the command line and the control socket: `freeze`, `delay=2,positions`, ….

A line is a name, or a name, `=` and arguments with commas between them. Parsing is pure; `apply` calls the verb.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from daemon.simulator.alterations import Where
from daemon.simulator.broken import MALFORMED
from daemon.simulator.verbs import Verbs


class UnknownVerbError(ValueError):
    """There is no such verb, or its arguments do not fit; the message has what would."""


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither on nor off")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _amount(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError(f"{text!r} is below 0")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError(f"{text!r} is not above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{text!r} is below 0")
    return value


def _one_of(*choices: str) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return chosen


def _field(text: str) -> Where:
    return "more" if text == "more" else "fewer" if text == "fewer" else _count(text)


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: the method it calls, how its arguments are read (in order), how many it needs, and what it does."""

    method: str
    does: str
    arguments: tuple[Callable[[str], Any], ...] = ()
    needed: int = 0

    def read(self, texts: list[str]) -> list[Any]:
        if not self.needed <= len(texts) <= len(self.arguments):
            raise ValueError(f"takes {self.needed} to {len(self.arguments)} arguments")
        return [read(text) for read, text in zip(self.arguments, texts, strict=False)]


_ODD_BARS = _one_of("", "unknown", "noYear", "emptyUpdate")
_ANSWERS = _one_of("hang", "empty", "cached")

VERBS: Final[dict[str, Verb]] = {
    "behave": Verb("behave", "take back every fault"),
    "refuse": Verb("refuse", "close the port"),
    "listen": Verb("listen_after", "open the port again (in SECONDS)", (_amount,)),
    "restart": Verb(
        "scheduled_restart",
        "daily restart: down for SECONDS, with RST, UNREADY",
        (_amount, _truth, _amount),
    ),
    "move-port": Verb("move_port", "1300 with PORT, then drop", (int,), 1),
    "accept-silently": Verb("accept_silently", "accept and never answer"),
    "silence-after-handshake": Verb("silence_after_handshake", "answer the version and nothing after it"),
    "close-in-handshake": Verb(
        "close_in_handshake", "close on accept, or AFTER_VERSION, with RST, INSIDE it", (_truth, _truth, _truth)
    ),
    "slow-version": Verb("slow_version", "answer the version after SECONDS", (_amount,), 1),
    "speak-http": Verb("speak_http", "be a web server"),
    "speak-tls": Verb("speak_tls", "be something that expects TLS"),
    "handshake": Verb("handshake", "greet new connections HOW", (_one_of("normal", "garbage", "hugeFrame"),), 1),
    "old-version": Verb("old_version", "answer the handshake with VERSION", (int,), 1),
    "no-accounts": Verb("no_accounts", "never send managedAccounts"),
    "empty-accounts": Verb("empty_accounts", "send an empty account list"),
    "no-next-id": Verb("no_next_id", "never send nextValidId"),
    "client-id-in-use": Verb("client_id_in_use", "326 and close, for SECONDS", (_amount,)),
    "client-id-free": Verb("client_id_free", "every client id is free again"),
    "ghost-ids": Verb("ghost_ids", "ids stay taken for SECONDS after their connection ended", (_amount,), 1),
    "drop": Verb("drop", "close every connection with FIN, its id taken for SECONDS", (_amount,)),
    "reset": Verb("reset", "close every connection with RST, its id taken for SECONDS", (_amount,)),
    "freeze": Verb("freeze", "stop reading and writing, keep the sockets open"),
    "thaw": Verb("thaw", "go on after freeze"),
    "slow-drip": Verb("slow_drip", "send at most so many BYTES a second", (_amount,), 1),
    "delay": Verb("delay", "answer SECONDS late, all requests or those of KIND", (_amount, str), 1),
    "mute": Verb("mute", "never answer requests of KIND", (str,), 1),
    "withhold-end": Verb("withhold_end", "answer KIND without its end marker", (str,), 1),
    "unmute": Verb("unmute", "answer KIND in full again", (str,), 1),
    "close-during": Verb(
        "close_during", "close after N messages of an answer of KIND", (str, _count, _truth, _count), 1
    ),
    "read-only": Verb("read_only", "321 to everything about orders", (_truth,)),
    "say": Verb("send_error", "send CODE with its words, or TEXT", (int, str, int), 1),
    "farm": Verb("farm", "farm notice CODE for FARM", (int, str), 1),
    "farm-blip": Verb("farm_blip", "2105, 10182 for each bar stream, 2106", (_truth,)),
    "malformed": Verb("malformed", "send broken bytes of this KIND", (_one_of(*MALFORMED),), 1),
    "alter": Verb(
        "alter",
        "MESSAGE goes out with FIELD (a number, more, fewer) as VALUE, so many TIMES, after SKIP",
        (str, _field, str, int, _count),
        2,
    ),
    "lose-upstream": Verb("lose_upstream", "1100 (or CODE); requests hang, empty or cached", (int, _ANSWERS, _truth)),
    "restore-upstream": Verb("restore_upstream", "1102, or 1101 if DATA_LOST; FARMS still broken", (_truth, str)),
    "nightly-reset": Verb(
        "nightly_reset", "1100 for SECONDS, every SECONDS, then 1102 or 1101", (_positive, _positive, _truth)
    ),
    "interrupt-requests": Verb("interrupt_requests", "1100 for every unanswered request", (int,)),
    "lose-streams": Verb("lose_streams", "10182 for every bar stream"),
    "lose-history": Verb("lose_history", "366 for every bar stream"),
    "compete": Verb("compete", "another session has the data: 10197", (_truth,)),
    "entitlement": Verb("entitlement", "market data meets CODE, for all or for CONTRACT", (int, str), 1),
    "refuse-bars": Verb("refuse_bars", "420 for real-time bars of CONTRACT", (str,), 1),
    "no-history": Verb("no_history", "162 without data for CONTRACT", (str,), 1),
    "no-prices": Verb("no_prices", "prices and sizes of 0 for CONTRACT", (str,), 1),
    "odd-bars": Verb("odd_bars", "bars with ?, without years, empty updates", (_ODD_BARS,)),
    "quiet": Verb("quiet", "nothing moves", (_truth,)),
    "flood": Verb("flood", "RATE ticks a second in all, for SECONDS", (_amount, _amount), 2),
    "mark": Verb("mark", "ticks carry their time of sending", (_truth,)),
    "pin": Verb("pin", "hold CONTRACT at PRICE", (str, _positive), 2),
    "fill": Verb(
        "fill", "an execution: CONTRACT, QUANTITY, PRICE, CLIENT, ACCOUNT", (str, _number, _positive, _count, str), 2
    ),
    "correct-fill": Verb("correct_fill", "correct EXECID to PRICE", (str, _positive), 2),
    "pend-commissions": Verb("pend_commissions", "commissions of -1", (_truth,)),
    "report-commission": Verb("report_commission", "the commission report of EXECID: AMOUNT", (str, _number), 1),
    "silence-orders": Verb("silence_orders", "executions without openOrder and orderStatus", (_truth,)),
    "repeat-order": Verb("repeat_order", "a late openOrder of PERMID, FILLED so far", (int, _amount), 1),
    "execution-zone": Verb("execution_zone", "execution times in zone NAME, HOURS from UTC", (str, _number)),
    "place": Verb("place", "an order appears: CONTRACT, QUANTITY, LIMIT, CLIENT", (str, _number, _positive, _count), 3),
    "cancel": Verb("cancel", "order PERMID is cancelled", (int,), 1),
    "refuse-account": Verb(
        "refuse_account", "321 for the values of ACCOUNT, with CAUSE, to what is SUBSCRIBED too", (str, str, _truth), 1
    ),
    "prefix-ledgers": Verb("prefix_ledgers", "tags of ledgers begin with $LEDGER-", (_truth,)),
    "hold-in-model": Verb("hold_in_model", "half of ACCOUNT is in MODEL", (str, str), 2),
    "unsubscribe-accounts": Verb("unsubscribe_accounts", "2100 to every client"),
    "update-accounts": Verb("update_accounts", "the account values, now"),
}


def parse(line: str) -> tuple[Verb, list[Any]]:
    """The verb and the arguments that `line` names. UnknownVerbError: what is wrong with it."""
    name, _, rest = line.strip().partition("=")
    verb = VERBS.get(name.strip())
    if verb is None:
        raise UnknownVerbError(f"there is no {name.strip()!r}; there are: {' '.join(VERBS)}")
    try:
        return verb, verb.read([part.strip() for part in rest.split(",")] if rest.strip() else [])
    except ValueError as error:
        raise UnknownVerbError(f"{name.strip()}: {error} ({verb.does})") from None


def apply(gateway: Verbs, line: str) -> object:
    """Run the verb on `line` and return its result. ValueError (no such verb, argument or request) or KeyError (no such
    contract, no such order)."""
    verb, arguments = parse(line)
    return getattr(gateway, verb.method)(*arguments)
