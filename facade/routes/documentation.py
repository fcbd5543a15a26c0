"""The catalogue of reasons as a page at `/docs/reasons` and as `docs/reasons.md`.

`python -m facade.routes.documentation` prints the latter.
"""

from __future__ import annotations

import sys
from functools import cache
from html import escape

from aiohttp import web

from facade.app import Session
from facade.http.responses import HTML, reply
from facade.http.routing import RequestContext
from shared.reasons import CATALOGUE, Reason, describe

PLACES = {name: name.upper() for name in ("host", "port", "found", "wanted")} | {"clientId": "CLIENT_ID"}
"""Placeholders for the facts that a reason's sentence names."""

PREFACE = "Every refusal, and every state of the link that is not ready, has one of these reasons."


def markdown() -> str:
    """The catalogue for a reader of the repository; each reason is an anchor."""
    lines = [
        "# Reasons",
        "",
        "Generated from `shared/reasons.py` by `python -m facade.routes.documentation`.",
        "",
        PREFACE,
        "",
    ]
    for name, reason in CATALOGUE.items():
        sentence, advice = describe(name, **PLACES)
        lines += [f'<a id="{name}"></a>', "", f"## {name}", "", f"**{reason.title}.** {sentence}", ""]
        lines += [f"{number}. {step}" for number, step in enumerate(advice, 1)] + ([""] if advice else [])
        lines += [
            _retry_words(reason),
            "",
        ]
    return "\n".join(lines)


def _retry_words(reason: Reason) -> str:
    return f"HTTP {reason.status}; retrying {'may succeed' if reason.retryable else 'alone does not help'}."


HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>IBKR: Reasons and advice</title>
<link rel="icon" type="image/svg+xml" href="/ui/icons/off.svg">
<script src="/ui/theme.js"></script>
<link rel="stylesheet" href="/ui/theme.css">
<link rel="stylesheet" href="/ui/docs.css">
</head>
<body>
<header class="top"><a href="/">IBKR</a><nav aria-label="Help"><a href="/docs">API</a><a href="/docs/reasons" aria-current="page">Reasons and advice</a></nav>
<label class="theme">Theme <select id="theme"><option value="system">system</option><option value="light">light</option><option value="dark">dark</option></select></label></header>
<main class="text">
"""  # noqa: E501


def html() -> str:
    """The catalogue as a page; `/docs/reasons#NAME` is the `type` of each problem."""
    contents = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in CATALOGUE)
    parts = [f'<h1>Reasons and advice</h1><p>{escape(PREFACE)}</p><ul class="contents">{contents}</ul>']
    for name, reason in CATALOGUE.items():
        sentence, advice = describe(name, **PLACES)
        steps = "".join(f"<li>{escape(step)}</li>" for step in advice)
        parts.append(
            f'<section id="{name}"><h2><a href="#{name}">{name}</a></h2>'
            f"<p><strong>{escape(reason.title)}.</strong> {escape(sentence)}</p>"
            + (f"<ol>{steps}</ol>" if steps else "")
            + f'<p class="note">{escape(_retry_words(reason))}</p></section>'
        )
    return f"{HEAD}{''.join(parts)}\n</main>\n</body>\n</html>\n"


async def reasons(_session: Session, _context: RequestContext) -> web.StreamResponse:
    return reply(_page(), HTML, headers={"Cache-Control": "no-cache"})


@cache
def _page() -> bytes:
    return html().encode()


if __name__ == "__main__":
    sys.stdout.write(markdown())
