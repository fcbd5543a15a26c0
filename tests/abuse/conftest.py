"""One chain a module, and what must be the same after every attack on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.abuse.chain import GROWTH, Chain, chain
from tests.waiting import until_now


@pytest.fixture(scope="module")
def whole() -> Iterator[Chain]:
    with chain() as built:
        yield built


@pytest.fixture
def attacked(whole: Chain) -> Iterator[Chain]:
    """The chain; after the test everything it was attacked for must be as before."""
    yield from unharmed(whole)


def unharmed(whole: Chain) -> Iterator[Chain]:
    """Session, processes, descriptors, tasks, memory and log, before and after."""
    if whole.broken:
        pytest.fail("an earlier test has left the chain in another state")
    whole.broken = True
    gateway = whole.simulated.gateway
    before, session = whole.weight(), whole.is_connected()["session"]
    dialled, pids = gateway.connections.total, (whole.daemon.pid, whole.child.pid)
    yield whole

    def at_rest() -> bool:
        now = whole.weight()
        return all(
            now.descriptors[name] <= before.descriptors[name] and not now.tasks[name] - before.tasks[name]
            for name in before.tasks
        )

    try:
        until_now(at_rest)
    except AssertionError:
        pytest.fail(f"left behind: {before} became {whole.weight()}")
    for name, bytes_now in whole.weight().memory.items():
        assert bytes_now - before.memory[name] < GROWTH, f"{name} grew"
    whole.served()
    assert not (trouble := whole.trouble()), "\n".join(trouble)
    assert whole.is_connected()["session"] == session
    assert (gateway.connections.total, gateway.connections.now) == (dialled, 1)
    assert (whole.daemon.pid, whole.child.pid) == pids
    whole.broken = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.name == "nt":
        for item in items:
            if "tests/abuse" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="signals, limits and paths of POSIX"))
