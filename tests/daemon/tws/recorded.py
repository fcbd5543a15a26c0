"""Messages as gateways send them, written as they are quoted: fields separated by `|`; and gateways that send them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from daemon.simulator.contracts import Contract
from daemon.simulator.order_messages import completed_order, open_order
from daemon.simulator.orders import Order
from tests.daemon.tws.scripted import Peer

Answer = Callable[[list[str]], Sequence[str]]

REQUEST_AT = {"9": 2, "20": 1, "81": 1, "78": 1, "1": 2, "76": 2, "92": 1, "7": 2, "74": 2, "94": 1, "62": 2}
"""Request → where its id stands."""

AAPL = "265598|AAPL|STK||0|||NASDAQ|USD|AAPL|NMS"
"""A contract, as in `position`, `execDetails` and `openOrder`."""


def answering(
    answers: dict[str, Sequence[str]], *, accounts: str = "DU1234567", version: int = 178
) -> Callable[[Peer], Awaitable[None]]:
    """A gateway that sends these messages for a request of that number; `ID` stands for the request's id."""

    async def script(peer: Peer) -> None:
        await peer.shake(accounts, version)
        while True:
            fields = await peer.next()
            request = fields[REQUEST_AT[fields[0]]] if fields[0] in REQUEST_AT else ""
            for line in answers.get(fields[0], ()):
                send(peer, line.replace("ID", request))
            if fields[0] == "49":
                send(peer, "49|1|1700000000")

    return script


def send(peer: Peer, line: str) -> None:
    peer.send(*line.split("|"))


def execution(
    exec_id: str, *, time: str = "20261125-10:00:00", perm_id: int = 77, total: str = "10", request: str = "-1"
) -> str:
    what = f"{exec_id}|{time}|DU1234567|NASDAQ|BOT|10|100.5|{perm_id}|7|0|{total}|100.5"
    return f"11|{request}|5|{AAPL}|{what}|||||1|0"


def order_line(perm_id: int = 77, status: str = "Submitted", **values: Any) -> str:
    """An openOrder message. `wire`: attributes as the client sent them."""
    return text(open_order(an_order(perm_id, status, **values), 178))


def completed_line(perm_id: int = 77) -> str:
    """A filled order in completedOrder: its quantity is 0, its filledQuantity 100."""
    return text(completed_order(an_order(perm_id, "Filled", filled=100), 178, "20261125 10:00:00 UTC"))


def an_order(perm_id: int, status: str, **values: Any) -> Order:
    contract = Contract(conId=265598, symbol="AAPL", secType="STK", exchange="NASDAQ", currency="USD")
    given = {"orderId": 5, "clientId": 7, "totalQuantity": 100, "orderType": "LMT"} | values
    return Order(permId=perm_id, account="DU1234567", contract=contract, action="BUY", status=status, **given)


def text(message: bytes) -> str:
    return message[4:].decode().replace("\0", "|").removesuffix("|")


def status_line(status: str, filled: float, perm_id: int = 77) -> str:
    return f"3|5|{status}|{filled}|{100 - filled}|100.5|{perm_id}|0|100.5|7||0"
