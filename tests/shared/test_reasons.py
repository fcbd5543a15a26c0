"""The catalogue: complete, and fit to be shown."""

from __future__ import annotations

import pytest

from shared.reasons import CATALOGUE, LINK_REASONS, Problem, describe

CONTRACT_4_1 = {
    *"""
portClosed hostUnreachable dialTimeout handshakeTimeout closedDuringHandshake notTws clientIdInUse sessionIncomplete
versionUnsupported accountMismatch socketLost probeTimeout portMoved upstreamLost competingSession loginRequired
autoConnectOff manual shuttingDown
""".split()  # noqa: SIM905 - as the contract writes it
}

CONTRACT_5 = {
    503: "daemonUnreachable notConnected snapshotIncomplete portClosed hostUnreachable "
    "socketLost closedDuringHandshake sessionIncomplete upstreamLost competingSession autoConnectOff manual "
    "shuttingDown ledgerUnavailable tooManyStreams",
    504: "dialTimeout handshakeTimeout probeTimeout brokerTimeout",
    502: "notTws versionUnsupported brokerError",
    409: "clientIdInUse accountMismatch connectInProgress accountAmbiguous",
    429: "pacingBudget tooManySubscriptions",
    422: "invalidParameters contractAmbiguous",
    404: "notFound",
    401: "tokenMissing",
    403: "peerRejected originRejected hostNotAllowed liveLocked notSubscribed",
    400: "badRequest",
    405: "methodNotAllowed",
    408: "bodyTimeout",
    413: "tooLarge",
    415: "unsupportedMediaType",
    417: "expectationFailed",
    421: "hostRejected",
}


def test_every_reason_of_the_link_is_in_the_catalogue() -> None:
    assert set(LINK_REASONS) == CONTRACT_4_1


@pytest.mark.parametrize(("status", "names"), CONTRACT_5.items())
def test_each_reason_is_the_http_status_that_the_contract_names(status: int, names: str) -> None:
    assert {name: CATALOGUE[name].status for name in names.split()} == dict.fromkeys(names.split(), status)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_sentence_reads_with_and_without_facts(name: str) -> None:
    for facts in ({}, {"host": "tws.lan", "port": 7497, "clientId": 3, "found": "DU1", "wanted": "DU2"}):
        sentence, advice = describe(name, **facts)
        for text in (sentence, *advice):
            assert text[0].isupper() or text[0] in "({"
            assert text.rstrip().endswith(".")
            assert "{" not in text.replace("{}", "")


def test_what_a_person_must_mend_comes_with_advice() -> None:
    assert all(CATALOGUE[name].advice for name in LINK_REASONS)


def test_the_four_classic_causes_come_in_the_seeds_order() -> None:
    _sentence, advice = describe("portClosed", host="127.0.0.1", port=7497)
    assert [word in line for word, line in zip(("Start TWS", "port", "Enable", "firewall"), advice, strict=True)] == [
        True
    ] * 4


@pytest.mark.parametrize(
    ("port", "there", "absent"),
    [
        (7497, "Global Configuration", "Configure → Settings"),
        (4001, "Configure → Settings → API → Settings", "ActiveX"),
        (4002, "Configure → Settings → API → Settings", "Global Configuration"),
        (5555, "IB Gateway it is always on", "{"),
    ],
)
@pytest.mark.parametrize("reason", ["portClosed", "handshakeTimeout", "closedDuringHandshake"])
def test_advice_names_the_menus_of_the_product_that_the_port_belongs_to(
    reason: str, port: int, there: str, absent: str
) -> None:
    _sentence, advice = describe(reason, host="127.0.0.1", port=port)
    text = " ".join(advice)
    assert there in text
    assert absent not in text


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("handshakeTimeout", "IBKR_CONNECT_TIMEOUT=60"),
        ("sessionIncomplete", "IBKR_CONNECT_TIMEOUT=60"),
        ("probeTimeout", "IBKR_PROBE_TIMEOUT=15"),
    ],
)
def test_a_slow_gateway_is_a_setting_with_a_value(reason: str, setting: str) -> None:
    assert any(setting in line for line in describe(reason, port=4001)[1])


def test_a_problem_carries_its_catalogue_entry() -> None:
    problem = Problem("pacingBudget", "60 of 60 used", retryAfter=12.5, ibCode=162)
    assert (problem.entry.status, problem.retryAfter, problem.ibCode, str(problem)) == (429, 12.5, 162, "60 of 60 used")
