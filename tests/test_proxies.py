"""The reverse proxies of docs/operations.md, with TLS, before a real facade with a token: all passes.

Only addresses, certificates and paths are replaced. nginx' workers run as another user, as Debian's do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations.md"
NAME = "ibkr.example.org"
LIMIT = 60.0  # s; only ends a test that would hang
TOKEN = "a-token-of-the-proxies-test-0123456789"


def recipe(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"docs/operations.md has no {language} block"
    return found[1]


@dataclass(frozen=True)
class Served:
    directory: Path
    facade_port: int
    proxy_port: int

    def curl(self, path: str, *arguments: str) -> str:
        """The body of the proxy's answer to `path`, as a client with the token gets it."""
        command = ["curl", "-sS", "-k", "--max-time", "10", "--resolve", f"{NAME}:{self.proxy_port}:127.0.0.1"]
        header = ["-H", f"Authorization: Bearer {TOKEN}", f"https://{NAME}:{self.proxy_port}{path}"]
        return subprocess.run([*command, *arguments, *header], capture_output=True, text=True, check=False).stdout


def wait_for(described: str, condition: str, served: Served, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + LIMIT
    while condition not in served.curl("/api/ibkr/status").replace(" ", ""):
        assert process.poll() is None, f"{described} has ended"
        assert time.monotonic() < ends, f"{described} did not answer"


@pytest.fixture(scope="module")
def facade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if os.name == "nt" or not shutil.which("openssl") or not shutil.which("curl"):
        pytest.skip("A POSIX system with openssl and curl is needed to put a proxy before the facade.")
    directory = tmp_path_factory.mktemp("proxy")
    directory.chmod(0o755)
    token = directory / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "certificate.pem")]
    subprocess.run([*certificate, *files], check=True, capture_output=True)
    served = Served(directory, free_port(), free_port())
    environ = {
        "HOME": str(directory),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "IBKR_STATE_DIR": str(directory / "state"),
        "IBKR_FACADE_PORT": str(served.facade_port),
        "IBKR_FACADE_NAMES": f"{NAME}:{served.proxy_port}",
        "IBKR_FACADE_TOKEN_FILE": str(token),
    }
    command = [sys.executable, str(ROOT / "scripts" / "foreground.py"), "--demo"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield served
        finally:
            process.terminate()


def nginx(served: Served) -> tuple[list[str], str]:
    block = recipe("nginx").replace("listen 443 ssl", f"listen 127.0.0.1:{served.proxy_port} ssl")
    block = block.replace("/etc/ssl/ibkr.crt", str(served.directory / "certificate.pem"))
    block = block.replace("/etc/ssl/ibkr.key", str(served.directory / "key.pem"))
    block = block.replace("127.0.0.1:9101", f"127.0.0.1:{served.facade_port}")
    temporary = "".join(
        f"{kind}_temp_path {served.directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user www-data;" if os.getuid() == 0 else ""
    http = f"http {{ access_log off; gzip on; gzip_types *; {temporary} {block} }}"
    text = f"{user} daemon off; pid {served.directory}/nginx.pid; error_log stderr; events {{}} {http}"
    return ["nginx", "-e", "stderr", "-p", str(served.directory), "-c", str(served.directory / "nginx.conf")], text


def caddy(served: Served) -> tuple[list[str], str]:
    block = recipe("caddy").replace(f"{NAME} {{", f"https://{NAME}:{served.proxy_port} {{\n    tls internal", 1)
    block = block.replace("127.0.0.1:9101", f"127.0.0.1:{served.facade_port}")
    options = "{\n admin off\n auto_https disable_redirects\n skip_install_trust\n}\n"
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(served.directory / "caddy.conf")], options + block


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_proxy_passes_answers_commands_and_events(facade: Served, proxy: type) -> None:
    name = proxy.__name__
    if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name}).")
    command, text = proxy(facade)
    (facade.directory / f"{name}.conf").write_text(text)
    environ = {"HOME": str(facade.directory), "PATH": "/usr/sbin:/usr/bin:/bin"}
    with subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(name, '{"connected":true,"available":true}', facade, process)

            origin = ["-H", f"Origin: https://{NAME}:{facade.proxy_port}", "-H", "Content-Type: application/json"]
            answer = facade.curl("/api/ibkr/reconnect", "-d", "{}", *origin)
            assert '"connected"' in answer

            compressed = ["--compressed", "-H", "Accept-Encoding: gzip", "-N", "--max-time", "2"]
            events = facade.curl("/api/ibkr/events?topics=link,accounts", *compressed)
            assert events.count("event: snapshot") == 2, "events must arrive while the stream is open"
        finally:
            process.terminate()
