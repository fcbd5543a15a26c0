"""The history budget: no schedule it lets through breaks a rule of IBKR's, and what it promises comes true."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.market.pacing import (
    LIMIT,
    OPEN,
    OPEN_RETRY,
    SLACK,
    WINDOW,
    Budget,
    Go,
    Refuse,
    Request,
    Wait,
    answered,
    closed,
    decide,
    figures,
    lost,
    opened,
    violated,
)


def small(key: object, group: object = None, **more: object) -> Request:
    return Request(key=key, group=key if group is None else group, small=True, **more)


def sent_and_answered(budget: Budget, request: Request, now: float) -> Budget:
    """A request that is answered at once."""
    return closed(opened(budget, request), request, now)


def sent_all(count: int, at: float = 0.0, step: float = 0.0, weight: int = 1) -> Budget:
    """A budget after `count` small requests of different contracts, all answered."""
    budget = Budget()
    for number in range(count):
        budget = sent_and_answered(budget, small(number, weight=weight), at + number * step)
    return budget


requests = st.builds(
    lambda contract, minutes, weight, is_small: Request(
        key=(contract, minutes, weight, is_small), group=(contract, weight), small=is_small, weight=weight
    ),
    contract=st.integers(0, 3),
    minutes=st.integers(0, 40),
    weight=st.sampled_from((1, 1, 1, 2)),
    is_small=st.sampled_from((True, True, True, False)),
)
steps = st.lists(st.tuples(requests, st.floats(0, 40), st.integers(0, 3), st.floats(0, 1)), min_size=60, max_size=200)


def assert_no_rule_broken(log: list[tuple[float, Request]]) -> None:
    """The rules again, written as IBKR states them and not as the budget computes them."""
    for index, (now, request) in enumerate(log):
        before = log[: index + 1]
        ten_minutes = sum(each.weight for at, each in before if each.small and at > now - 600.0)
        assert not request.small or ten_minutes <= 60
        recent = [(at, each) for at, each in before if each.small]
        assert not request.small or Counter(each.key for at, each in recent if at > now - 15.0)[request.key] == 1
        burst = sum(each.weight for at, each in recent if each.group == request.group and at > now - 2.0)
        assert not request.small or burst < 6


@given(steps)
@settings(max_examples=60, deadline=None)
def test_no_schedule_that_it_lets_through_violates_a_rule(plan: list[tuple[Request, float, int, float]]) -> None:
    """For any requests at any time, however long a request stands in the send queue before it arrives, IBKR's limits
    are kept as IBKR counts them; `Wait` names a moment to come, which holds if nothing else is open.
    """
    budget, now = Budget(), 0.0
    left: dict[Request, tuple[float, float]] = {}
    arrivals: list[tuple[float, Request]] = []

    def answer(*answered: Request) -> None:
        nonlocal budget
        for request in answered:
            at, delay = left.pop(request)
            arrivals.append((at + (now - at) * delay, request))
            budget = closed(budget, request, now)

    for number, (planned, pause, answers, delay) in enumerate(plan):
        request = replace(planned, deadline=1e9 + number)  # each one is another
        now += pause if number % 7 == 0 else pause / 100
        answer(*budget.pending[:answers])
        decision = decide(budget, request, now)
        if isinstance(decision, Wait):
            assert decision.until > now
            answer(*budget.pending)
            decision = decide(budget, request, now)
        if isinstance(decision, Wait):
            now = decision.until
            decision = decide(budget, request, now)
        assert decision == Go()
        budget = opened(budget, request)
        left[request] = now, delay
        assert budget.open <= 50
    answer(*budget.pending)
    assert_no_rule_broken(sorted(arrivals, key=lambda arrival: arrival[0]))


@given(st.integers(0, LIMIT), st.integers(0, 200), st.sampled_from((1, 2)))
def test_what_waits_ahead_is_counted_before_what_comes_later(used: int, ahead: int, weight: int) -> None:
    budget = sent_all(used)
    decision = decide(budget, small("new", weight=weight), 1.0, ahead)
    place = ahead + weight
    if place <= LIMIT - used:
        assert decision == Go()
    else:
        rounds, slot = divmod(place - 1, LIMIT)
        first = 1.0 if slot < LIMIT - used else WINDOW + SLACK
        assert decision == Wait(first + rounds * (WINDOW + SLACK))


def test_a_request_that_cannot_make_its_deadline_is_refused_at_once_with_the_time_to_wait() -> None:
    budget = sent_all(LIMIT)

    assert decide(budget, small("late", deadline=30.0), 10.0) == Refuse(WINDOW + SLACK - 10.0)
    assert decide(budget, small("patient", deadline=700.0), 10.0) == Wait(WINDOW + SLACK)


def test_bid_ask_counts_twice() -> None:
    assert figures(sent_all(30, weight=2), 0.0).used == LIMIT
    assert isinstance(decide(sent_all(30, weight=2), small("one more"), 1.0), Wait)


def test_fifty_open_requests_hold_everything_until_one_closes() -> None:
    budget = Budget()
    for number in range(OPEN):
        budget = opened(budget, Request(key=number, group=number, small=False))
    request = Request(key="next", group="next", small=False, deadline=20.0)

    assert decide(budget, request, 1.0) == Wait(20.0)
    assert decide(budget, request, 20.0) == Refuse(OPEN_RETRY)
    assert decide(closed(budget, budget.pending[0], 1.0), request, 1.0) == Go()


def large(key: object, group: object = None) -> Request:
    return Request(key=key, group=key if group is None else group, small=False)


def test_a_violation_by_small_bars_uses_up_the_allowance() -> None:
    refused = small("refused")
    budget = violated(opened(sent_all(10), refused), refused, 100.0)
    again = violated(budget, small("again"), 200.0)

    assert (figures(budget, 100.0).used, figures(again, 200.0).used) == (LIMIT, LIMIT)
    assert figures(budget, 100.0).resetsIn == WINDOW + SLACK - 100.0
    assert decide(again, small("small"), 200.0) == Wait(WINDOW + SLACK)
    assert decide(again, large("large"), 200.0) == Go()


def test_a_violation_by_large_bars_costs_what_the_short_rules_cost() -> None:
    refused = large(("AAPL", "1 day"), "AAPL")
    budget = closed(violated(opened(Budget(), refused), refused, 100.0), refused, 100.0)

    assert figures(budget, 100.0).used == 0
    assert decide(budget, refused, 100.0) == Wait(100.0 + 15.0 + SLACK)
    assert decide(budget, large(("AAPL", "1 week"), "AAPL"), 100.0) == Wait(100.0 + 2.0 + SLACK)
    assert decide(budget, large("MSFT"), 100.0) == Go()
    assert decide(budget, small("MSFT"), 100.0) == Go()
    assert decide(budget, refused, 100.0 + 15.0 + SLACK) == Go()


def test_large_bars_may_be_requested_as_often_as_fifty_open_requests_allow() -> None:
    budget = Budget()
    for _ in range(100):
        assert decide(budget, large("day"), 1.0) == Go()
        budget = sent_and_answered(budget, large("day"), 1.0)


def test_what_is_not_answered_counts_as_sent_now() -> None:
    """It may have arrived this moment: only its answer starts the clock."""
    request = small("slow")
    budget = opened(Budget(), request)

    assert decide(budget, small("slow", deadline=9000.0), 700.0) == Wait(700.0 + 15.0 + SLACK)
    assert figures(budget, 700.0).used == 1
    budget = answered(budget, request, 700.0)
    assert budget.open == 1
    assert figures(lost(budget, 800.0), 800.0).used == 1
    assert lost(budget, 800.0).open == 0


def test_what_was_on_its_way_when_the_session_ended_has_counted() -> None:
    """IBKR counts a request whether or not its answer finds us there."""
    budget = Budget()
    for number in range(LIMIT):
        budget = opened(budget, small(number))
    budget = lost(budget, 100.0)

    assert figures(budget, 100.0).used == LIMIT
    assert decide(budget, small("new"), 101.0) == Wait(100.0 + WINDOW + SLACK)


def test_figures_of_an_unused_budget() -> None:
    assert (figures(Budget(), 5.0).used, figures(Budget(), 5.0).resetsIn) == (0, None)


def test_what_no_rule_needs_is_dropped() -> None:
    budget = sent_all(50, step=1.0)
    for number in range(100):
        now = 2000.0 + 20 * number
        budget = violated(sent_and_answered(budget, large(("day", number)), now), large(("day", number)), now)
    budget = sent_and_answered(budget, small("one"), 9000.0)

    assert (len(budget.sent), len(budget.violations)) == (1, 0)
