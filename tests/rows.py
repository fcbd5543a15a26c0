"""Rows of the broker with the facts that a test does not look at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.messages import Fill


def fill(exec_id: str, time: datetime | None = None, **facts: Any) -> Fill:
    """An execution; without a time it happens now."""
    usual = {"account": "DU1", "side": "BOT", "shares": 1.0, "price": 2.0, "permId": 1, "orderId": 1, "clientId": 1}
    return Fill(execId=exec_id, time=time or datetime.now(UTC), **(usual | facts))
