"""Requests to the daemon for commands that make a few and exit, and how their failures are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from facade.terminal import link_view
from shared.jsonrpc import blocking_client
from shared.jsonrpc.codec import INVALID_PARAMS
from shared.reasons import describe
from shared.settings import REMOTE, Settings
from shared.transport.address import DEFAULT_SESSION, AnotherSession


class Failure(Exception):  # noqa: N818 - a refusal is no error of ours
    """Why a request has no result. `status`: the exit status it stands for."""

    def __init__(
        self, status: int, reason: str | None, detail: str, advice: Sequence[str], extra: Mapping[str, Any]
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.advice, self.extra = status, reason, detail, advice, extra

    def show(self, *, as_json: bool) -> int:
        """Print it: as an object on standard output, or in words on standard error. Its exit status."""
        if as_json:
            fields = {"reason": self.reason, "detail": self.detail, "advice": list(self.advice), **self.extra}
            print(json.dumps(fields, ensure_ascii=False))
            return self.status
        print(self.detail, file=sys.stderr)
        for number, line in enumerate(map(link_view.advice, self.advice), 1):
            print(f"  {number}. {line}", file=sys.stderr)
        return self.status


def request(settings: Settings, method: str, params: Mapping[str, Any] | None = None) -> Any:
    """The result of `method`, however long the daemon takes while it answers pings. Raises `Failure`."""
    named = named_session(settings)
    try:
        return blocking_client.call_while_alive(settings.socket_path, method, params, link_view.TIMEOUT, session=named)
    except blocking_client.CallError as refused:
        data = refused.data if isinstance(refused.data, dict) else {}
        usage = refused.code == INVALID_PARAMS
        raise Failure(
            link_view.USAGE if usage else link_view.NOT_CONNECTED,
            data.get("reason") or ("invalidParameters" if usage else None),
            data.get("detail") or refused.message,
            data.get("advice") or (),
            {name: data[name] for name in ("candidates", "accounts", "ibCode") if data.get(name)},
        ) from None
    except AnotherSession as error:
        raise Failure(link_view.NO_DAEMON, "notFound", str(error), (), {}) from None
    except OSError as error:
        sentence, advice = describe("daemonUnreachable")
        detail = f"{sentence} ({settings.socket_path}: {error.strerror or error})"
        if unknown := why_no_session(settings):
            detail, advice = unknown, ()
        raise Failure(link_view.NO_DAEMON, "daemonUnreachable", detail, advice, {}) from None


def named_session(settings: Settings) -> str:
    """The session that must answer; empty where none is named, and whichever daemon listens at the socket may."""
    return "" if settings.session == DEFAULT_SESSION else settings.session


def why_no_session(settings: Settings) -> str:
    """Why no daemon of the named session can be found here; empty where one may merely not run."""
    name = settings.session
    if settings.is_remote(name):
        return (
            f"The daemon of the session {name!r} is on another machine (IBKR_SESSIONS: {name}={REMOTE}); this command "
            f"uses the local socket. Ask the facade: {settings.facade_url}/api/ibkr/sessions/{name}/status"
        )
    known = settings.known_sessions()
    if name == DEFAULT_SESSION or name in known or not known:
        return ""
    return f"There is no session {name!r} here. Known are {', '.join(known)} (IBKR_SESSIONS and .env.NAME)."


def rows(
    settings: Settings, method: str, params: Mapping[str, Any], paging: str = "after"
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows of `method`'s answer over its pages, and the other members of the last page. Raises `Failure`."""
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = request(settings, method, {**params, **more})
        found += page.pop("rows")
        following = page.pop("next", None)
        if not following:
            return found, page
        more = {paging: following}
