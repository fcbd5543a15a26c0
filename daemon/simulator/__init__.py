"""A simulated TWS / IB Gateway on the wire: a TCP server that speaks the TWS API at server version 178.

It imports neither our daemon nor any client library, and no other code has a demo mode because of it. It is used by
its own `__main__`, by scripts and by tests:

    gateway = Gateway(World(seed=7, accounts=("DU1234567",), positions=25))
    port = await gateway.start()          # a free port; `async with Gateway(...) as gateway` does the same
    ...
    await gateway.stop()

A healthy gateway needs nothing more. Faults are verbs (`gateway.freeze()`, `gateway.drop()`,
`gateway.mute("positions")`, `gateway.lose_upstream()`, … see `verbs.Verbs`), taken back by `gateway.behave()`;
`gateway.refuse()` closes the port and `await gateway.listen()` opens it again. The same verbs by name, for the command
line and the control socket, stand in `faults.VERBS`.

What it received: `gateway.connections` (counts), `gateway.requests` (the last decoded requests), `gateway.sessions`,
`gateway.client_ids`, `gateway.quotes.by_contract()` (open market-data lines), `gateway.history.violations` (pacing).

Time is an argument: `Gateway(clock=ManualClock())` stands still until `clock.advance(seconds)`.
"""

from daemon.simulator.clock import ManualClock, RealClock
from daemon.simulator.market import World
from daemon.simulator.pacing import HistoryLimits
from daemon.simulator.seen import Seen
from daemon.simulator.server import Gateway

__all__ = ["Gateway", "HistoryLimits", "ManualClock", "RealClock", "Seen", "World"]
