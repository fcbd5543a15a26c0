"""The document says what the facade does: it is valid, and nothing that it answers is undocumented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from facade.routes.documentation import markdown
from facade.routes.openapi import document
from facade.routes.paths import ROUTES
from shared.reasons import CATALOGUE
from tests.facade.conftest import Served

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
