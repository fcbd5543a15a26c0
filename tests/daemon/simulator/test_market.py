"""The seeded world: the same again from the same seed, and books that add up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator.accounts import values
from daemon.simulator.catalogue import Catalogue
from daemon.simulator.market import World
from daemon.simulator.orders import Order, Refusal, price_now

NOW = 1_763_380_800.0  # Monday 2025-11-17 12:00 UTC


def world(**options: object) -> World:
    made = World(**options)  # type: ignore[arg-type]
    made.open(NOW)
    return made


def limit(of: World, action: str, quantity: float, price: float, order_id: int = 500, **rest: object) -> Order:
    contract = of.catalogue.named("AAPL")
    return Order(0, order_id, 1, of.accounts[0], contract, action, quantity, "LMT", price, **rest)  # type: ignore[arg-type]


def test_the_same_seed_is_the_same_world_and_another_is_another() -> None:
    first, second, other = world(seed=7), world(seed=7), world(seed=8)

    def facts(of: World) -> object:
        held = [(p.contract.symbol, p.position, p.avgCost) for p in of.held()]
        return held, [f.execId for f in of.fills], [o.lmtPrice for o in of.open_orders()], of.cash

    assert facts(first) == facts(second)
    assert facts(first) != facts(other)
    apple = first.catalogue.named("AAPL")
    assert first.quote(apple, NOW) == second.quote(apple, NOW)
    assert first.quote(apple, NOW) != first.quote(apple, NOW + 60)


@pytest.mark.parametrize(("accounts", "positions"), [(1, 0), (1, 25), (2, 25), (60, 1000)])
def test_positions_are_dealt_to_the_accounts_in_turn(accounts: int, positions: int) -> None:
    made = world(accounts=accounts, positions=positions, fills=0)
    shares = [len(made.held(account)) for account in made.accounts]

    assert sum(shares) == positions
    assert max(shares) - min(shares) <= 1


@given(trades=st.lists(st.tuples(st.integers(-300, 300).filter(bool), st.integers(50, 400)), max_size=12))
@settings(deadline=None)
def test_cash_position_and_profit_add_up_after_any_trades(trades: list[tuple[int, int]]) -> None:
    made = world(positions=0, fills=0)
    account = made.accounts[0]
    before = made.cash[account]
    for quantity, price in trades:
        made.happen("AAPL", quantity, float(price), NOW, client=1)

    opening_costs = sum(f.commission or 0 for f in made.fills if f.realizedPNL is None)
    at_cost = sum(p.position * p.avgCost for p in made.positions.values())
    realized = sum(p.realizedPNL for p in made.positions.values())
    assert made.cash[account] == pytest.approx(before - at_cost + realized - opening_costs)
    assert sum(p.position for p in made.positions.values()) == sum(quantity for quantity, _ in trades)


def test_net_liquidation_is_cash_and_holdings() -> None:
    made = world()
    rows = {(tag, currency): value for tag, value, currency in values(made, "DU1234567", NOW)}
    held = sum(h.marketValue for h in made.holdings("DU1234567", NOW))

    assert float(rows["NetLiquidation", "USD"]) == pytest.approx(made.cash["DU1234567"] + held, abs=0.01)
    assert rows["StockMarketValue", "BASE"] == rows["StockMarketValue", "USD"]
    assert float(rows["UnrealizedPnL", "USD"]) == pytest.approx(made.totals("DU1234567", NOW).unrealizedPnL, abs=0.01)


def test_a_limit_order_rests_until_the_market_comes_to_it() -> None:
    made = world()
    made.prices.pin(made.catalogue.named("AAPL"), 200.0)
    news = made.place(limit(made, "BUY", 10, 190.0), NOW)
    assert not isinstance(news, Refusal)
    [order] = [o for o in made.open_orders() if o.orderId == 500]
    assert made.meet_market(NOW) == []

    made.prices.pin(order.contract, 189.0)
    made.meet_market(NOW)

    assert (order.status, order.filled, order.remaining) == ("Filled", 10, 0)
    assert order.lastFillPrice <= 190.0


def test_an_order_that_must_fill_at_once_is_cancelled_if_it_cannot() -> None:
    made = world()
    made.prices.pin(made.catalogue.named("AAPL"), 200.0)
    made.place(limit(made, "BUY", 10, 100.0, tif="IOC"), NOW)

    assert [o.status for o in made.orders.values() if o.orderId == 500] == ["Cancelled"]


@pytest.mark.parametrize(
    ("kind", "action", "limit_", "trigger", "bid", "ask", "price"),
    [
        ("MKT", "BUY", None, None, 99, 101, 101),
        ("MKT", "SELL", None, None, 99, 101, 99),
        ("LMT", "BUY", 100, None, 99, 101, None),
        ("LMT", "SELL", 99, None, 99, 101, 99),
        ("STP", "BUY", None, 102, 99, 101, None),
        ("STP", "SELL", None, 100, 99, 101, 99),
        ("STP LMT", "BUY", 100, 100, 99, 101, None),
        ("MIT", "BUY", None, 102, 99, 101, 101),
        ("MIT", "SELL", None, 100, 99, 101, None),
        ("MOC", "BUY", None, None, 99, 101, None),
    ],
)
def test_an_order_trades_at_the_price_its_type_allows(
    kind: str, action: str, limit_: float | None, trigger: float | None, bid: float, ask: float, price: float | None
) -> None:
    made = world()
    order = Order(0, 1, 1, "DU1", made.catalogue.named("AAPL"), action, 1, kind, limit_, trigger)

    assert price_now(order, bid, ask) == price


def test_contracts_are_found_by_their_description() -> None:
    made: Catalogue = world().catalogue
    [apple] = made.find({"symbol": "AAPL", "secType": "STK"})
    chain = made.chains[apple.conId]
    expiry, strike = chain.expirations[2], chain.strikes[0]
    option = {"symbol": "AAPL", "secType": "OPT", "lastTradeDateOrContractMonth": expiry, "strike": str(strike)}

    assert made.find({"conId": "265598"}) == [apple]
    assert made.find({"conId": "265598", "exchange": "NYMEX"}) == []
    assert len(made.find({"symbol": "IBM", "secType": "STK", "currency": "USD"})) == 2
    assert [c.right for c in made.find({**option, "right": "CALL"})] == ["C"]
    assert len(made.find({**option, "right": ""})) == 2
    assert len(made.find({"symbol": "ES", "secType": "FUT"})) == 4
    assert {
        c.lastTradeDateOrContractMonth[:6]
        for c in made.find({"symbol": "ES", "lastTradeDateOrContractMonth": "202512"})
    } == {"202512"}
    assert made.find({"localSymbol": "EUR.USD", "secType": "CASH"})[0].conId == 12087792
    assert all(
        int(c.lastTradeDateOrContractMonth or "99999999") >= 20251117 for c in made.by_con_id.values() if not c.expired
    )
