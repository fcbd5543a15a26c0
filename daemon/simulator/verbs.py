"""The verbs that make the gateway misbehave, or make something happen in its world: all of them, those of the link too.

Each is one method of `Gateway`; `faults.VERBS` names them for the command line.
"""

from __future__ import annotations

from dataclasses import replace

from daemon.simulator import accounts, codes, messages, trading
from daemon.simulator.behaviour import Answers, OddBars, Upstream
from daemon.simulator.codes import NO_REQUEST
from daemon.simulator.contracts import Contract
from daemon.simulator.link_verbs import LinkVerbs
from daemon.simulator.market import Changed
from daemon.simulator.orders import Fill, Refusal


class Verbs(LinkVerbs):
    """What can be done to a gateway and to its world."""

    # IBKR behind the gateway

    def lose_upstream(self, code: int = 1100, answers: Answers = "hang", per_request: bool = False) -> None:
        """IBKR is out of reach (1100, or 2110). `answers` is what requests get: nothing (`hang`), empty lists and 200
        (`empty`), or what the gateway knew (`cached`; what needs IBKR hangs). `per_request` answers with the code
        itself, those requests too that had no answer yet."""
        self.faults.upstream = Upstream(code, answers, per_request)
        self.send_error(code)
        if per_request:
            self.interrupt_requests(code)

    def interrupt_requests(self, code: int = 1100) -> None:
        """Answer every request that has had no answer with `code`."""
        for session in self.ready_sessions():
            for req_id in list(session.unanswered):
                del session.unanswered[req_id]
                session.error(req_id, code)

    def restore_upstream(self, data_lost: bool = False, broken: str = "") -> None:
        """1102, or with `data_lost` 1101: then every market-data and bar stream is dropped. `broken` names the farms
        that are not connected yet."""
        self.faults.upstream = None
        if data_lost:
            self.quotes.drop()
            for session in self.ready_sessions():
                session.subscriptions.bars.clear()
        farms = f"The following farms are not connected: {broken}" if broken else codes.ALL_FARMS
        self.send_error(1101 if data_lost else 1102, farms=farms)

    def nightly_reset(self, for_s: float = 15.0, every_s: float = 5.0, data_lost: bool = False) -> None:
        """IBKR's own reset: 1100 at once and every `every_s`, farms broken, and after `for_s` all is as it was."""
        self.lose_upstream()
        for code in (2103, 2105, 2157):
            self.farm(code)
        for n in range(1, int(for_s / every_s)):
            self.clock.call_later(n * every_s, lambda: self.send_error(1100))
        self.clock.call_later(for_s, lambda: self._reset_over(data_lost))

    def _reset_over(self, data_lost: bool) -> None:
        self.restore_upstream(data_lost)
        for code in (2104, 2106, 2158):
            self.farm(code)

    def lose_streams(self) -> None:
        """10182 for every bar stream, which never goes on."""
        for session in self.ready_sessions():
            for stream in session.subscriptions.bars.values():
                if not stream.dead:
                    stream.dead = True
                    session.error(stream.reqId, 10182)

    def farm_blip(self, kills_streams: bool = True) -> None:
        """2105, with 10182 for every bar stream, which is dead from then on; then 2106."""
        self.farm(2105)
        if kills_streams:
            self.lose_streams()
        self.farm(2106)

    def lose_history(self) -> None:
        """366 for every bar stream, which never goes on."""
        for session in self.ready_sessions():
            for stream in session.subscriptions.bars.values():
                stream.dead = True
                session.error(stream.reqId, 366, id=stream.reqId)

    # data

    def compete(self, on: bool = True) -> None:
        """Another session of the same user has the data: 10197 for every line, which ends, and for each new one."""
        self.faults.competing = on
        if on:
            for line in self.quotes.drop():
                line.session.error(line.reqId, 10197)

    def entitlement(self, code: int, contract: str | int = "") -> None:
        """The market-data code one contract (or all) meets: 354, 10089, 10090, 10167, 10168; 0 = it may be seen."""
        if contract == "":
            self.faults.any_entitlement = code
            self.faults.entitlements.clear()
        else:
            self.faults.entitlements[self._contract(contract).conId] = code

    def refuse_bars(self, contract: str | int, cause: str = "No market data permissions") -> None:
        """420 to every real-time-bar request for this contract."""
        self.faults.invalid_bars[self._contract(contract).conId] = cause

    def no_history(self, contract: str | int) -> None:
        """162 (no data) to every historical request for this contract."""
        self.faults.no_history.add(self._contract(contract).conId)

    def no_prices(self, contract: str | int) -> None:
        """A contract without data: its ticks are prices of 0 (-1 for bid and ask) and sizes of 0."""
        self.faults.no_prices.add(self._contract(contract).conId)

    def odd_bars(self, how: OddBars = "unknown") -> None:
        """Bars as some gateways send them: see `behaviour.OddBars`."""
        self.faults.odd_bars = how

    def quiet(self, on: bool = True) -> None:
        """The market is closed: nothing moves."""
        self.faults.quiet = on

    def flood(self, rate: float, seconds: float) -> None:
        """For `seconds`, send `rate` ticks a second in all."""
        self.quotes.flood(rate, seconds)

    def mark(self, on: bool = True) -> None:
        """Marked ticks: last prices that are the monotonic clock at sending, sizes that count (see `lines.Quotes`)."""
        self.quotes.marked = on

    def tick(self, contract: str | int, **prices: float) -> int:
        """Send exact values (`bid`, `ask`, `last`, `size`) to the lines on a contract; to how many."""
        return self.quotes.send_exact(self._contract(contract), **prices)

    def pin(self, contract: str | int, price: float | None) -> None:
        """Hold a contract at a price, for ticks, bars and portfolio alike; None lets it move again."""
        self.world.prices.pin(self._contract(contract), price)

    def _contract(self, name: str | int) -> Contract:
        return self.world.catalogue.named(name)

    # orders and executions

    def fill(
        self,
        contract: str | int,
        quantity: float,
        price: float | None = None,
        client_id: int | None = None,
        account: str = "",
    ) -> Fill:
        """An execution happens: bought if `quantity` is above 0, else sold. `client_id` is whose order it was (default:
        the connected client with the lowest id, else client 1; 0 = by hand). It is kept for `reqExecutions`; connected
        clients get it at once unless IBKR is out of reach."""
        if client_id is None:
            ready = self.ready_sessions()
            client_id = (ready[0].client_id or 0) if ready else 1
        order, fill = self.world.happen(contract, quantity, price, self.clock.time(), client_id, account)
        trading.publish(self, [Changed(order), fill])
        return fill

    def correct_fill(self, exec_id: str, price: float) -> Fill:
        """A correction of an execution: its id's last part is one higher."""
        fill = self.world.correct(exec_id, price)
        trading.publish(self, [fill])
        return fill

    def pend_commissions(self, on: bool = True) -> None:
        """Commission reports have -1: the commission is still to come."""
        self.faults.pending_commissions = on

    def report_commission(self, exec_id: str, amount: float | None = None) -> None:
        """The commission report of an execution; without `amount` its commission is empty. KeyError: there is no such
        execution."""
        fill = next((fill for fill in self.world.fills if fill.execId == exec_id), None)
        if fill is None:
            raise KeyError(exec_id)
        for session in self.ready_sessions():
            session.write(messages.commission_report(replace(fill, commission=amount)))

    def silence_orders(self, on: bool = True) -> None:
        """Executions and commissions come, openOrder and orderStatus do not."""
        self.faults.silent_orders = on

    def repeat_order(self, perm_id: int, filled: float = 0.0) -> None:
        """A late openOrder and orderStatus of an order, from when it was Submitted and `filled` so far. KeyError: there
        is no such order."""
        late = replace(self.world.orders[perm_id], status="Submitted", filled=filled)
        for session in self.ready_sessions():
            session.write(trading.state(late, session.version))

    def execution_zone(self, name: str = "", hours: float = 0.0) -> None:
        """Execution times are in the zone `name`, `hours` ahead of UTC; without a name in the exchange's own."""
        self.faults.execution_zone = (name, hours) if name else None

    def place(self, contract: str | int, quantity: float, limit: float, client_id: int = 0, account: str = "") -> int:
        """A limit order appears that this client did not place (0: by hand); its permId. ValueError: there can be no
        such order."""
        order, news = self.world.appear(contract, quantity, limit, self.clock.time(), client_id, account)
        if isinstance(news, Refusal):
            raise ValueError(f"{news.code} {codes.words(news.code, cause=news.cause)}")
        trading.publish(self, news)
        return order.permId

    def cancel(self, perm_id: int) -> None:
        """An open order is cancelled at IBKR. ValueError: it is done already."""
        order = self.world.orders[perm_id]
        if order.done:
            raise ValueError(f"order {perm_id} is {order.status} already")
        trading.publish(self, self.world.cancel(order, self.clock.time()))

    def refuse_account(self, account: str, cause: str = "Invalid account code", subscribed: bool = False) -> None:
        """321 to every request for the values of this account; with `subscribed` also to the subscriptions that have
        had their first answer, which end."""
        self.faults.refused_accounts[account] = cause
        for session in self.ready_sessions() if subscribed else ():
            held = session.subscriptions
            for req_id in [req_id for req_id, (name, _) in held.account_multi.items() if name == account]:
                del held.account_multi[req_id]
                session.error(req_id, 321, who="bW", cause=cause)
            if held.account == account:
                held.account = ""
                session.error(NO_REQUEST, 321, who="bW", cause=cause)

    def prefix_ledgers(self, on: bool = True) -> None:
        """The tags of ledgers begin with `$LEDGER-`, a setting of TWS from 10.47 on."""
        self.faults.ledger_prefix = on

    def hold_in_model(self, account: str, model: str) -> None:
        """Half of what an account has is in a model: its values and positions come a second time, with the model."""
        self.faults.models[account] = model

    def unsubscribe_accounts(self) -> None:
        """2100: the account updates of every client end."""
        for session in self.ready_sessions():
            if session.subscriptions.account:
                session.subscriptions.account = ""
                session.error(NO_REQUEST, 2100)

    def update_accounts(self) -> None:
        """The account values that come every three minutes, now."""
        for session in self.ready_sessions():
            accounts.every_three_minutes(self, session)
