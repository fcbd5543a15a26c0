"""The only place that imports ib_async: one `Tws` a session, messages → rows, codes → events.

Rows and events leave; nothing of ib_async does.
"""

from daemon.state.sink import Sink
from daemon.tws.errors import LinkLost, TwsBusy, TwsError, TwsRefused, TwsSilent, TwsUnreadable
from daemon.tws.session import Limits, Tws

__all__ = ["Limits", "LinkLost", "Sink", "Tws", "TwsBusy", "TwsError", "TwsRefused", "TwsSilent", "TwsUnreadable"]
