"""Order requests and executions, and the messages that clients get as an order changes.

The orders themselves are the world's; this file turns its news into messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from daemon.simulator import accounts, history, messages, order_messages
from daemon.simulator.contracts import NEW_YORK
from daemon.simulator.market import Changed
from daemon.simulator.orders import Fill, Order, Refusal
from daemon.simulator.reference import resolve
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState


def shown_time(gateway: GatewayState, fill: Fill) -> str:
    """An execution's time as TWS writes it: the exchange's own local time, or that of the zone the gateway uses."""
    if gateway.faults.execution_zone is not None:
        name, hours = gateway.faults.execution_zone
        return f"{datetime.fromtimestamp(fill.time + hours * 3600, UTC):%Y%m%d %H:%M:%S} {name}"
    return history.moment(fill.time, fill.contract.timeZoneId or NEW_YORK)


def state(order: Order, version: int) -> bytes:
    return order_messages.open_order(order, version) + messages.order_status(order)


def own_orders(gateway: GatewayState, session: Session) -> list[Order]:
    """The open orders of this client; client 0 has those made by hand too."""
    return [order for order in gateway.world.open_orders() if order.clientId == session.client_id]


def open_orders(gateway: GatewayState, session: Session, _request: Request) -> Iterable[bytes]:
    return _listed(session, own_orders(gateway, session))


def all_open_orders(gateway: GatewayState, session: Session, _request: Request) -> Iterable[bytes]:
    return _listed(session, gateway.world.open_orders())


def _listed(session: Session, orders: list[Order]) -> Iterator[bytes]:
    for order in orders:
        yield state(order, session.version)
    yield messages.open_order_end()


def auto_open_orders(gateway: GatewayState, session: Session, request: Request) -> None:
    """Client 0 takes orders made by hand for its own; each gets an order id, below zero."""
    if session.client_id != 0:
        session.error(-1, 321, who="bX", cause="Only the default client (i.e 0) can auto bind orders")
    elif request.fields["autoBind"] == "1":
        for order in gateway.world.bind():
            session.write(messages.order_bound(order) + state(order, session.version))


def completed_orders(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes]:
    if session.version < 150:
        return
    by_hand = not request.number("apiOnly")
    for order in gateway.world.completed_orders():
        if order.clientId or by_hand:
            at = history.moment(order.completedAt, NEW_YORK)
            yield order_messages.completed_order(order, session.version, at)
    yield messages.completed_orders_end()


def executions(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes]:
    """All executions of the day that the filter lets through, then their commissions, then the end."""
    wanted = [fill for fill in gateway.world.fills if _wanted(fill, request, gateway.clock.time())]
    for fill in wanted:
        yield messages.execution(session.version, request.reqId, fill, shown_time(gateway, fill))
    for fill in wanted:
        if fill.commission is not None:
            yield _commission(gateway, fill)
    yield messages.execution_end(request.reqId)


def _commission(gateway: GatewayState, fill: Fill) -> bytes:
    """The commission report of an execution; -1 where the commission is still to come."""
    return messages.commission_report(replace(fill, commission=-1.0) if gateway.faults.pending_commissions else fill)


def _wanted(fill: Fill, request: Request, now: float) -> bool:
    fields = request.fields
    client = request.number("clientId")
    side = fields["side"].upper()
    since = _since(fields["time"], now)
    return (
        fill.time >= since
        and (not client or fill.clientId == client)
        and fields["acctCode"] in ("", fill.account)
        and fields["symbol"] in ("", fill.contract.symbol)
        and fields["secType"] in ("", fill.contract.secType)
        and fields["exchange"] in ("", fill.exchange)
        and (side in ("", fill.side) or ((side == "BUY") == (fill.side == "BOT") and side in ("BUY", "SELL")))
    )


def _since(text: str, now: float) -> float:
    """The filter's time; without one, the last midnight in New York. A time that cannot be read filters nothing."""
    try:
        since = history.end_of(text, 0.0, NEW_YORK)
    except history.InvalidQueryError:
        since = 0.0
    if since:
        return since
    today = datetime.fromtimestamp(now, history.zone(NEW_YORK)).replace(hour=0, minute=0, second=0, microsecond=0)
    return min(today.astimezone(UTC).timestamp(), now - 3600)


# placing and cancelling


def place_order(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    order_id = request.number("orderId")
    contract = resolve(gateway, session, request, order_id)
    if contract is None:
        return None
    fields = request.fields
    order = Order(
        permId=0,
        orderId=order_id,
        clientId=session.client_id or 0,
        account=fields["account"] or gateway.world.accounts[0],
        contract=contract,
        action=fields["action"],
        totalQuantity=float(fields["totalQuantity"] or 0),
        orderType=fields["orderType"],
        lmtPrice=_price(fields["lmtPrice"]),
        auxPrice=_price(fields["auxPrice"]),
        tif=fields["tif"] or "DAY",
        orderRef=fields["orderRef"],
        parentId=int(fields["parentId"] or 0),
        ocaGroup=fields["ocaGroup"],
        transmit=fields["transmit"] == "1",
        wire={k: v for k, v in fields.items() if v},
    )
    news = gateway.world.refused(order) if fields["whatIf"] == "1" else gateway.world.place(order, gateway.clock.time())
    if news is None:
        return [_what_if(gateway, session, order)]
    if isinstance(news, Refusal):
        session.error(order_id, news.code, cause=news.cause, who="bY")
        return None
    publish(gateway, news)
    return None


def _price(text: str) -> float | None:
    """A price as it was sent; None for what is none, 0 or TWS's own "not set"."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 < abs(value) < 1e300 else None


def _what_if(gateway: GatewayState, session: Session, order: Order) -> bytes:
    now = gateway.clock.time()
    before = {tag: value for tag, value, _ in accounts.values(gateway.world, order.account, now)}
    worth = order.totalQuantity * gateway.world.quote(order.contract, now).last * order.contract.size
    order.status = "PreSubmitted"
    margin = order_messages.Margin(
        float(before["InitMarginReq"]), round(worth * 0.3, 2), float(before["EquityWithLoanValue"])
    )
    return order_messages.open_order(order, session.version, margin)


def cancel_order(gateway: GatewayState, session: Session, request: Request) -> None:
    order_id = request.number("orderId")
    order = gateway.world.order_of(session.client_id or 0, order_id)
    if order is None:
        session.error(order_id, 10147, id=order_id)
    elif order.done:
        session.error(order_id, 10148, id=order_id, state=order.status)
    else:
        publish(gateway, gateway.world.cancel(order, gateway.clock.time()))


def global_cancel(gateway: GatewayState, _session: Session, _request: Request) -> None:
    for order in gateway.world.open_orders():
        if not order.done:
            publish(gateway, gateway.world.cancel(order, gateway.clock.time()))


# which clients an order's news go to


def publish(gateway: GatewayState, news: Iterable[Changed | Fill]) -> None:
    """Send news to the clients concerned; while IBKR is out of reach nothing is sent, then or later."""
    for item in news:
        if gateway.faults.upstream is not None:
            continue
        owner = item.order.clientId if isinstance(item, Changed) else item.clientId
        for session in gateway.ready_sessions():
            concerned = session.client_id in (owner, gateway.master_client_id)
            if isinstance(item, Changed):
                if concerned and not gateway.faults.silent_orders:
                    _send_order(session, item.order)
            else:
                if concerned:
                    _send_fill(gateway, session, item)
                held = gateway.world.positions[item.account, item.contract.conId]
                accounts.position_changed(gateway, session, held)


def _send_order(session: Session, order: Order) -> None:
    if order.status == "Cancelled":
        session.write(messages.order_status(order))
        session.error(order.orderId, 202)
    else:
        session.write(state(order, session.version))


def _send_fill(gateway: GatewayState, session: Session, fill: Fill) -> None:
    """`execDetails` now, its commission when it is due."""
    session.write(messages.execution(session.version, -1, fill, shown_time(gateway, fill)))
    if gateway.commission_delay:
        gateway.clock.call_later(gateway.commission_delay, lambda: session.write(_commission(gateway, fill)))
    else:
        session.write(_commission(gateway, fill))


ANSWERS: Final[dict[str, Answer]] = {
    "reqOpenOrders": open_orders,
    "reqAllOpenOrders": all_open_orders,
    "reqAutoOpenOrders": auto_open_orders,
    "reqCompletedOrders": completed_orders,
    "reqExecutions": executions,
    "placeOrder": place_order,
    "cancelOrder": cancel_order,
    "reqGlobalCancel": global_cancel,
}
