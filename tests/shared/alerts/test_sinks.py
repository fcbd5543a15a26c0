"""Where alerts may go."""

from __future__ import annotations

import pytest

from shared.alerts.sinks import MOST_SINKS, read_sinks, read_url


def test_urls_are_read_in_order_and_once() -> None:
    text = "https://hooks.example.com/a/SECRET, http://127.0.0.1:8080/x,,https://hooks.example.com/a/SECRET"
    sinks = read_sinks(text)

    assert [(sink.kind, sink.label) for sink in sinks] == [
        ("webhook", "https://hooks.example.com"),
        ("webhook", "http://127.0.0.1:8080"),
    ]
    assert read_sinks("  ") == ()
    assert [(sink.kind, sink.label) for sink in read_sinks("HTTPS://Example.com/x")] == [
        ("webhook", "https://example.com")
    ]


def test_an_url_of_apprise_may_hold_commas() -> None:
    pytest.importorskip("apprise")
    sinks = read_sinks("tgram://TOKEN/chat1,chat2,https://example.com/x")

    assert [sink.kind for sink in sinks] == ["apprise", "webhook"]
    assert sinks[0].url.endswith("chat1,chat2")


def test_nothing_that_is_shown_of_a_sink_holds_its_secret() -> None:
    (sink,) = read_sinks("https://user:SECRET@example.com/SECRET?SECRET")

    assert "SECRET" not in f"{sink}{sink!r}{(sink,)}{sink.label}{sink.key}"


@pytest.mark.parametrize(
    "text",
    [
        "http://SECRET.example.com/",
        "SECRET",
        "https://",
        "https://example.com/x, hooks.example.com/SECRET",
        "https:///SECRET",
        "https://example.com:SECRET/",
        "https://exam ple/SECRET",
        "://SECRET",
        "1.2.3.4:80/SECRET",
        "https://[SECRET/",
        ",".join(f"https://SECRET{number}.example.com/" for number in range(MOST_SINKS + 1)),
    ],
)
def test_what_cannot_be_sent_to_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(Number|At most)") as refused:
        read_sinks(text)
    assert "SECRET" not in str(refused.value)


def test_other_schemes_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.alerts.sinks.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"ntfy:// needs Apprise|\(ntfy://\) needs Apprise"):
        read_sinks("ntfy://SECRET")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("https://a.example/SECRET,https://b.example/SECRET", "It is one URL, not a list"),
        ("https://a.example/SECRET,b", "write a comma inside a URL as %2C"),
        ("http://a.example/SECRET", "It is http:// to another machine: use https://"),
        ("SECRET", "It is no URL"),
        ("ntfy://SECRET", "It is no URL"),
    ],
)
def test_a_heartbeat_has_one_url(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        read_url(text)
    assert "SECRET" not in str(refused.value)
    assert read_url("https://a.example/SECRET%2Cx").label == "https://a.example"
