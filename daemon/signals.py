"""What ends the daemon: SIGTERM, Ctrl-C, a closed terminal or console, logoff.

A second signal changes nothing: the end has its own deadlines. Outside the main thread nothing is installed.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WINDOWS_PATIENCE = 4.5
"""s that a console event waits for us: Windows kills the process 5 s after it closes a console."""

if sys.platform == "win32":
    import ctypes
    from types import FrameType

    @contextmanager
    def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
        """Within it, `stop` is called in the loop when the system wants this process to end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ended = threading.Event()

        def stop_soon() -> None:
            loop.call_soon_threadsafe(stop)

        def interrupted(_number: int, _frame: FrameType | None) -> None:
            stop_soon()

        @ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)  # type: ignore[untyped-decorator]
        def console_event(event: int) -> int:
            """In a thread of Windows' own. Ctrl-C and Ctrl-Break (0, 1) are signals; after the others it kills."""
            if event < 2:
                return 0
            try:
                stop_soon()
            except RuntimeError:  # the loop has ended already
                return 0
            ended.wait(WINDOWS_PATIENCE)
            return 1

        set_handler = ctypes.windll.kernel32.SetConsoleCtrlHandler
        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGBREAK)}
        set_handler(console_event, 1)
        try:
            yield
        finally:
            set_handler(console_event, 0)
            for number, former in before.items():
                signal.signal(number, former)
            ended.set()

else:

    @contextmanager
    def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
        """Within it, `stop` is called in the loop when the system wants this process to end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup sets: the terminal's end is no stop
            wanted.append(signal.SIGHUP)
        ignored = (signal.SIGUSR1, signal.SIGUSR2)  # their default would end the process without closing the session
        before = {number: signal.getsignal(number) for number in (*wanted, *ignored)}
        for number in wanted:
            loop.add_signal_handler(number, stop)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        try:
            yield
        finally:
            for number in wanted:
                loop.remove_signal_handler(number)
            for number, former in before.items():
                signal.signal(number, former)  # the loop leaves the default, which is not what there was
