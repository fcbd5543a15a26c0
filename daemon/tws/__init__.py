"""The only place that knows ib_async: one `Tws` a session, objects → rows, codes → events.

Rows and events leave; nothing of ib_async does.
"""

from daemon.sink import Sink
from daemon.tws.errors import LinkLost, TwsBusy, TwsError, TwsRefused, TwsSilent
from daemon.tws.session import Limits, Tws

__all__ = ["Limits", "LinkLost", "Sink", "Tws", "TwsBusy", "TwsError", "TwsRefused", "TwsSilent"]
