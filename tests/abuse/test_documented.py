"""The whole chain gets requests as its OpenAPI document allows, and as it does not: nothing undocumented comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, seed, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from facade.routes.openapi import document
from facade.routes.paths import ROUTES
from tests.abuse.chain import Chain
from tests.abuse.conftest import unharmed

DOCUMENT = json.loads(json.dumps(document(ROUTES)))
EXAMPLES = 12
bounded = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def described(mode: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(
        DOCUMENT, config=schemathesis.Config.from_dict({"generation": {"mode": mode}})
    )


COMMANDS = ["/api/ibkr/connect", "/api/ibkr/disconnect"]
anything = described("all").exclude(path=["/api/ibkr/events", *COMMANDS])  # without end; or it would be obeyed
refused = described("negative").include(path=COMMANDS)


@pytest.fixture(scope="module")
def checked(whole: Chain) -> Iterator[Chain]:
    """Checked once after all of it: quotes that were requested go on for ten seconds."""
    yield from unharmed(whole)


@anything.parametrize()
@seed(8)
@bounded
def test_nothing_undocumented_is_answered(checked: Chain, case: schemathesis.Case) -> None:
    """Status, content type and body are those of the document, and never a 500."""
    # JSON Schema takes 1024.0 for an integer, the contract does not
    case.call_and_validate(base_url=f"http://{checked.authority}", excluded_checks=[positive_data_acceptance])


@refused.parametrize()
@seed(8)
@bounded
def test_no_undocumented_command_is_executed(checked: Chain, case: schemathesis.Case) -> None:
    """What the document does not allow is refused as it says, and the link stays as it is."""
    case.call_and_validate(base_url=f"http://{checked.authority}", excluded_checks=[positive_data_acceptance])
