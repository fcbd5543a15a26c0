"""Reference requests: contracts, symbols, option chains, rules, and the small lists TWS hands out.

What this gateway has no data for it turns down in the words of an account without the subscription; it never hangs.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from daemon.simulator import data_messages, history, messages
from daemon.simulator.contracts import Contract
from daemon.simulator.messages import answer, listed
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState

RULES: Final[dict[int, tuple[tuple[float, float], ...]]] = {
    26: ((0.0, 0.01),),
    67: ((0.0, 0.01), (3.0, 0.05)),
    239: ((0.0, 0.00005),),
}


NO_ADVISOR: Final = "FA data operations ignored for non FA customers."


def resolve(gateway: GatewayState, session: Session, request: Request, req_id: int | None = None) -> Contract | None:
    """The one contract that a request means; None after an error 200 or 321 was sent."""
    req_id = request.reqId if req_id is None else req_id
    fields = request.fields
    found = _find(gateway, session, request, req_id)
    if found is None:
        return None
    if len(found) == 1:
        return found[0]
    if found:
        _send_error(session, req_id, 200, f"The contract description specified for {fields['symbol']} is ambiguous.")
    else:
        session.error(req_id, 200)
    return None


def _send_error(session: Session, req_id: int, code: int, message: str) -> None:
    session.write(messages.error(session.version, req_id, code, message))


def _find(gateway: GatewayState, session: Session, request: Request, req_id: int) -> list[Contract] | None:
    fields = request.fields
    if not request.number("conId") and not fields.get("symbol") and not fields.get("localSymbol"):
        session.error(req_id, 321, who="bW", cause="Please enter a valid symbol")
        return None
    if not request.number("conId") and not fields.get("secType"):
        session.error(req_id, 321, who="bW", cause="Please enter a valid security type")
        return None
    if fields.get("strike") and not _number(fields["strike"]):
        session.error(req_id, 321, who="bW", cause="Please enter a valid strike")
        return None
    return gateway.world.catalogue.find(fields)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def contract_details(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    found = _find(gateway, session, request, request.reqId)
    if found is None:
        return None
    if not found:
        session.error(request.reqId, 200)
        return None
    return _details(gateway, session, request, found)


def _details(gateway: GatewayState, session: Session, request: Request, found: list[Contract]) -> Iterable[bytes]:
    now, hours = gateway.clock.time(), {}
    for contract in found:
        key = (contract.secType, contract.timeZoneId)
        if key not in hours:
            hours[key] = (_hours(contract, now, False), _hours(contract, now, True))
        exchange = request.fields["exchange"]
        if contract.bond is not None:
            yield messages.bond_details(session.version, request.reqId, contract, contract.bond, exchange)
            continue
        yield messages.contract_details(session.version, request.reqId, contract, exchange, hours[key])
    yield messages.contract_details_end(request.reqId)


def _hours(contract: Contract, now: float, regular: bool) -> str:
    """Today's and the next days' sessions as TWS writes them: `20261125:0930-20261125:1600;20261128:CLOSED;…`."""
    local = history.zone(contract.timeZoneId)
    by_day = {}
    for session in history.sessions_back(contract, now + 6 * 86_400, regular):
        if session.closes < now - 86_400:
            break
        by_day[session.day] = session
    day, parts = datetime.fromtimestamp(now, local).date(), []
    for _ in range(5):
        open_day = by_day.get(day)
        if open_day is None:
            parts.append(f"{day:%Y%m%d}:CLOSED")
        else:
            begin, end = (datetime.fromtimestamp(at, local) for at in (open_day.opens, open_day.closes))
            parts.append(f"{begin:%Y%m%d:%H%M}-{end:%Y%m%d:%H%M}")
        day += timedelta(days=1)
    return ";".join(parts)


def matching_symbols(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes]:
    pattern, catalogue = request.fields["pattern"], gateway.world.catalogue
    found = [*catalogue.search(pattern), *catalogue.issuers(pattern)]
    return [messages.symbol_samples(session.version, request.reqId, found)]


def option_params(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    under = gateway.world.catalogue.by_con_id.get(request.number("underlyingConId"))
    if under is None or under.symbol != request.fields["underlyingSymbol"]:
        session.error(request.reqId, 321, who="b0", cause="Invalid contract id")
        return None
    return _chains(gateway, request.reqId, under.conId)


def _chains(gateway: GatewayState, req_id: int, con_id: int) -> Iterable[bytes]:
    chain = gateway.world.catalogue.chains.get(con_id)
    if chain is not None:
        for exchange in ("SMART", "CBOE", "AMEX", "ISE"):
            yield messages.option_chain(req_id, chain, exchange)
    yield messages.option_chain_end(req_id)


def market_rule(_gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    rule = request.number("marketRuleId")
    if rule not in RULES:
        session.error(-1, 321, who="cE", cause="Invalid market rule id")
        return None
    return [messages.market_rule(rule, RULES[rule])]


def current_time(gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    return [messages.current_time(gateway.clock.time())]


def ids(gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    """Nothing while the fault `no-next-id` is set."""
    return [messages.next_valid_id(gateway.world.next_order_id)] if gateway.faults.next_id else []


def managed_accounts(gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    """As at the start of a session: nothing, or an empty list, while that fault is set."""
    if gateway.faults.accounts == "missing":
        return []
    return [messages.managed_accounts(gateway.world.managed if gateway.faults.accounts == "normal" else ())]


def accepted(gateway: GatewayState, session: Session, request: Request) -> None:
    """A request that has no answer."""


def _refuse(code: int, **parts: object) -> Answer:
    def refuse(_gateway: GatewayState, session: Session, request: Request) -> None:
        session.error(request.reqId, code, **parts)

    return refuse


def _fixed(message: int, *fields: object) -> Answer:
    def fixed(_gateway: GatewayState, _session: Session, request: Request) -> Iterable[bytes]:
        mine = (request.reqId,) if "reqId" in request.fields else ()
        return [answer(message, *mine, *fields)]

    return fixed


def display_groups(_gateway: GatewayState, _session: Session, request: Request) -> Iterable[bytes]:
    return [answer(67, 1, request.reqId, "1|2|3|4")]


def family_codes(gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    return [answer(78, *listed([(account, "") for account in gateway.world.accounts]))]


def display_group(_gateway: GatewayState, _session: Session, request: Request) -> Iterable[bytes]:
    """What a display group shows: nothing, until a client sets it."""
    return [answer(68, 1, request.reqId, request.fields.get("contractInfo", "none"))]


def advisor_data(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    if not gateway.world.advisor:
        session.error(request.reqId, 321, who="bW", cause=NO_ADVISOR)
        return None
    members = "".join(f"<String>{account}</String>" for account in gateway.world.accounts)
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><ListOfGroups><Group><name>All</name>'
        f'<ListOfAccts varName="list">{members}</ListOfAccts>'
        "<defaultMethod>NetLiq</defaultMethod></Group></ListOfGroups>"
    )
    return [answer(16, 1, request.number("faDataType"), xml)]


def keep_advisor_data(gateway: GatewayState, session: Session, request: Request) -> None:
    """An advisor's groups are the world's; they cannot be changed."""
    cause = "The allocation groups of this gateway cannot be changed" if gateway.world.advisor else NO_ADVISOR
    session.error(request.reqId, 321, who="bW", cause=cause)


def option_value(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    if contract.secType != "OPT":
        session.error(request.reqId, 321, who="bK", cause="The contract is not an option")
        return None
    greeks = gateway.world.prices.greeks(contract, gateway.clock.time())
    return [data_messages.tick_greeks(session.version, request.reqId, 53, greeks)]


VENUES: Final = (("ISLAND", 11, "Q"), ("NYSE", 12, "N"), ("ARCA", 1, "P"), ("BATS", 2, "Z"))

ANSWERS: Final[dict[str, Answer]] = {
    "reqContractDetails": contract_details,
    "reqMatchingSymbols": matching_symbols,
    "reqSecDefOptParams": option_params,
    "reqMarketRule": market_rule,
    "reqCurrentTime": current_time,
    "reqIds": ids,
    "reqManagedAccts": managed_accounts,
    "reqFamilyCodes": family_codes,
    "requestFA": advisor_data,
    "replaceFA": keep_advisor_data,
    "calculateImpliedVolatility": option_value,
    "calculateOptionPrice": option_value,
    "reqMktDepthExchanges": _fixed(80, *listed([(name, "STK", "", "Deep", 1) for name, _, _ in VENUES])),
    "reqSmartComponents": _fixed(82, *listed([(bit, name, letter) for name, bit, letter in VENUES])),
    "reqSoftDollarTiers": _fixed(77, 0),
    "queryDisplayGroups": display_groups,
    "subscribeToGroupEvents": display_group,
    "updateDisplayGroup": display_group,
    "reqUserInfo": _fixed(107, ""),
    "reqFundamentalData": _refuse(430),
    "reqWshMetaData": _refuse(10276),
    "reqWshEventData": _refuse(10276),
    "exerciseOptions": _refuse(322, who="bH", cause="No position to exercise"),
    "setServerLogLevel": accepted,
    "reqNewsBulletins": accepted,
}
"""Requests not listed here or in a sibling table end what this gateway never starts, and have no answer."""
