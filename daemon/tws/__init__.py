"""The only place that knows ib_async: one `Tws` a session, objects → rows, codes → events.

Rows and events leave; nothing of ib_async does.
"""

from daemon.tws.lean import import_eventkit

import_eventkit()

from daemon.state.sink import Sink  # noqa: E402 - only now may ib_async be imported
from daemon.tws.errors import LinkLost, TwsBusy, TwsError, TwsRefused, TwsSilent  # noqa: E402
from daemon.tws.session import Limits, Tws  # noqa: E402

__all__ = ["Limits", "LinkLost", "Sink", "Tws", "TwsBusy", "TwsError", "TwsRefused", "TwsSilent"]
