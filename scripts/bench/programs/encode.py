"""What a step costs in the store: a changed quote row put, and its delta encoded once. Prints s of processor time."""

from __future__ import annotations

import sys
import time

from daemon.state.feed import delta_lines
from daemon.state.store import Store
from shared.clock import SystemClock
from shared.messages import Quote

store = Store("e1", SystemClock())
steps = int(sys.argv[1])
begun = time.process_time()
for number in range(steps):
    quote = Quote(conId=1, bid=100.0 + number, ask=101.0, last=100.5, volume=float(number))
    seq = store.put({"quotes:1": {"1": quote}})
    replica = store.replica
    for _line in delta_lines(replica.epoch, replica.since(("quotes:1",), seq - 1) or {}, seq, replica.floor):
        pass
print((time.process_time() - begun) / steps, flush=True)
