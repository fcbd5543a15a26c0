"""The document says what the facade does: it is valid, and nothing that it answers is undocumented."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from msgspec import to_builtins
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import positive_data_acceptance

from facade.routes.documentation import markdown
from facade.routes.openapi import document
from facade.routes.paths import ROUTES
from shared.messages import Account, Contract, ContractDetails, Position
from shared.reasons import CATALOGUE
from tests.facade.conftest import Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = json.loads(json.dumps(document(ROUTES)))


@pytest.mark.parametrize("token", [False, True])
def test_the_document_is_valid(token: bool) -> None:
    validate(json.loads(json.dumps(document(ROUTES, token=token))))


def test_every_route_is_in_it_with_what_it_may_refuse() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.template][route.method.lower()]
        for reason in route.reasons:
            assert f"`{reason}`" in operation["responses"][str(CATALOGUE[reason].status)]["description"]


def test_every_operation_has_a_description_and_a_json_example_that_fits_its_schema() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            content = operation["responses"]["200" if "200" in operation["responses"] else "202"].get("content", {})
            if "application/json" not in content or path.endswith("/openapi.json"):
                continue
            shown = content["application/json"]
            schema = {**shown["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(shown["example"])


def test_no_default_makes_a_generated_type_require_what_may_be_left_out() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    members = [member for schema in schemas.values() for member in schema.get("properties", {}).values()]
    assert not [member for member in members if "default" in member]
    assert not schemas["ConnectParams"].get("required")
    assert set(schemas["Position"]["required"]) == set(schemas["Position"]["properties"])
    answer = DOCUMENT["paths"]["/api/ibkr/positions"]["get"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"] == {"$ref": "#/components/schemas/PositionsAnswer"}


def test_every_reason_has_its_anchor() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
    for name in CATALOGUE:
        assert f'<a id="{name}"></a>' in text
    assert text == markdown(), "run: python -m facade.routes.documentation > docs/reasons.md"


async def test_it_is_served_with_a_page_to_try_it_and_the_reasons(served: Served) -> None:
    assert (await served.get("/api/ibkr/openapi.json"))[1] == DOCUMENT
    status, text, _ = await served.get("/docs")
    assert (status, "swagger-ui-bundle.js" in text) == (200, True)
    for path in ("vendor/swagger-ui/swagger-ui-bundle.js", "vendor/swagger-ui/LICENSE", "docs.js"):
        assert (await served.get(f"/ui/{path}"))[0] == 200
    status, text, _ = await served.get("/docs/reasons")
    assert status == 200
    assert all(f'id="{name}"' in text for name in CATALOGUE)


# --- nothing undocumented -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A facade in a thread of its own, before a daemon that answers everything."""
    place = tmp_path_factory.mktemp("facade")
    (place / "run").mkdir(mode=0o700)
    ready, found, done = threading.Event(), [], threading.Event()

    async def serve() -> None:
        async with FakeDaemon(str(place / "run" / "d.sock")) as daemon:
            plentiful(daemon)
            async with running(place, daemon, probe_timeout=3600.0) as served:
                await until(lambda: served.facade.default.mirror.state.connected)
                found.append(f"http://127.0.0.1:{served.port}")
                ready.set()
                await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="facade")
    thread.start()
    assert ready.wait(10)
    yield found[0]
    done.set()
    thread.join()


def plentiful(daemon: FakeDaemon) -> None:
    daemon.set_all(
        accounts={"DU1234567": Account(account="DU1234567", paper=True)},
        positions={"DU1234567:1": Position(account="DU1234567", conId=1, position=1.0)},
    )
    nothing: dict[str, Any] = {"rows": [], "asOf": None, "next": None}
    for method in (
        "account.pnl.history",
        "executions.list",
        "contracts.search",
        "contracts.options",
        "quotes.get",
        "bars.fetch",
    ):
        daemon.answer(method, nothing)
    for method, row in (("contracts.get", ContractDetails(conId=1)), ("contracts.qualify", Contract(conId=1))):
        daemon.answer(method, {"rows": [to_builtins(row)], "asOf": None, "next": None})
    daemon.answer("link.events", {"events": [], "uptime": {}, "next": None})


schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path="/api/ibkr/events")  # which never ends


@schema.parametrize()
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_undocumented(address: str, case: schemathesis.Case) -> None:
    # JSON Schema takes 1024.0 for an integer, the contract does not
    case.call_and_validate(base_url=address, excluded_checks=[positive_data_acceptance])
