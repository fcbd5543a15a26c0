"""`python -m daemon.simulator`: the simulated gateway alone, until Ctrl-C.

It prints one line, `simulated gateway on HOST:PORT`, when it listens. It reads no settings and writes no files.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
from contextlib import AsyncExitStack

from daemon.simulator import control, faults
from daemon.simulator.market import World
from daemon.simulator.server import Gateway


def _accounts(text: str) -> tuple[int, str]:
    """How many accounts, and the advisor's master account if there is one: `1`, `60`, `fa`, `fa5`."""
    advisor = "DF1234566" if text.lower().startswith("fa") else ""
    number = text[2:] if advisor else text
    count = int(number or 3)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError("1 to 1000 accounts")
    return count, advisor


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError("0 to 65535")
    return number


def _positions(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 100_000:
        raise argparse.ArgumentTypeError("0 to 100000 positions")
    return count


def _rate(text: str) -> float:
    rate = float(text)
    if not (math.isfinite(rate) and rate >= 0):
        raise argparse.ArgumentTypeError("a number of ticks, not below 0")
    return rate


def _fault(text: str) -> str:
    try:
        faults.parse(text)
    except faults.UnknownVerbError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m daemon.simulator",
        description="A simulated TWS / IB Gateway that speaks the TWS API (server version 178).",
        epilog="Faults: " + "; ".join(f"{name}: {verb.does}" for name, verb in faults.VERBS.items()),
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=7497, help="port, 0 for any free one (default 7497)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same world (default 7)")
    parser.add_argument(
        "--accounts", type=_accounts, default=(1, ""), help="how many, or fa for an advisor's (default 1)"
    )
    parser.add_argument("--positions", type=_positions, default=25, help="how many in all (default 25)")
    parser.add_argument("--tick-rate", type=_rate, default=2.0, help="ticks a second on each line (default 2)")
    parser.add_argument("--fault", type=_fault, action="append", default=[], metavar="NAME[=ARG,…]", help="see below")
    parser.add_argument(
        "--control", metavar="PATH", help="Unix socket for verbs while it runs; - for the standard input"
    )
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> None:
    """Run a gateway until a signal or `quit` ends it."""
    count, advisor = options.accounts
    world = World(options.seed, accounts=count, positions=options.positions, advisor=advisor)
    gateway = Gateway(world, host=options.host, tick_rate=options.tick_rate)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, ended.set)
        except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
            pass
    async with AsyncExitStack() as stack:
        await gateway.start(options.port)
        stack.push_async_callback(gateway.stop)
        for fault in options.fault:
            faults.apply(gateway, fault)
        if options.control and options.control != "-":
            await stack.enter_async_context(control.unix_socket(gateway, options.control, ended.set))
        print(f"simulated gateway on {options.host}:{gateway.port}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            lines = None
            if options.control == "-":
                lines = tasks.create_task(control.standard_input(gateway, ended.set), name="control lines")
            await ended.wait()
            if lines is not None:
                lines.cancel()


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    try:
        asyncio.run(serve(options))
    except KeyboardInterrupt:
        pass
    except NotImplementedError:
        print("--control is not available on this system", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The simulated gateway cannot start: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"There is no contract or order {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
