"""A real browser: a page over https whose script speaks WebSocket through the proxy and writes what it heard.

The page's picture is answered only when the socket's endpoint has heard the last word: so the page has loaded, and the
browser prints it, when the script has done its work.
"""
from __future__ import annotations

import html
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from e2e.backends import StartActor
from e2e.certs import Authority
from e2e.frames import TEXT, accept_websocket, frame, read_frame
from e2e.program import StartEdge, addresses, free_port
from e2e.tlspeers import NAME, https
from e2e.wire import Wire

PAGE = """<!doctype html><title>wss</title><p id="heard">nothing</p><script>
const socket = new WebSocket("wss://" + location.host + "/socket"), heard = document.getElementById("heard");
const long = "x".repeat(100000);
let number = 0;
socket.onopen = () => { heard.textContent = "open"; socket.send("round 0"); };
socket.onerror = () => { heard.textContent += ", error"; fetch("/failed"); };
socket.onmessage = (event) => {
  heard.textContent += ", " + (event.data === long ? "long" : event.data);
  number += 1;
  if (number < 5) socket.send("round " + number);
  else if (number === 5) socket.send(long);
  else socket.send("done");
};
</script><img src="/picture">
"""


def test_rounds_over_wss(edge: StartEdge, actor: StartActor, authority: Authority, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium; make test tries to)")
    done = threading.Event()

    def site(wire: Wire) -> None:
        while True:
            target = wire.request().target
            if target == "/":
                wire.answer(PAGE.encode(), "200 OK", "Content-Type: text/html")
            elif target == "/picture":
                done.wait(60)
                wire.answer(b"", "404 Not Found")
            else:
                if target == "/failed":
                    done.set()
                wire.answer(b"", "404 Not Found")

    def sockets(wire: Wire) -> None:
        accept_websocket(wire)
        while True:
            kind, payload = read_frame(wire)
            if kind == TEXT and payload == b"done":
                done.set()
            wire.send(frame(kind, payload if payload != b"done" else b"bye", masked=False))

    port, pages, echoes = free_port(), actor(site), actor(sockets)
    proxy = edge(f"listeners: {{secure: {https(port, [authority.server(NAME)])}}}\n"
                 "routes: [{service: pages}, {path: /socket, service: sockets}]\n"
                 f"services:\n  pages: {{endpoints: {addresses(pages.port)}}}\n"
                 f"  sockets: {{endpoints: {addresses(echoes.port)}}}\n")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               f"--user-data-dir={tmp_path / 'profile'}", "--ignore-certificate-errors",
               f"--host-resolver-rules=MAP {NAME} 127.0.0.1", "--dump-dom", f"https://{NAME}:{port}/"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r'<p id="heard">([^<]*)</p>', said.stdout)
    assert found, said.stdout + said.stderr[-3000:]
    expected = "open, " + ", ".join(f"round {n}" for n in range(5)) + ", long"
    assert html.unescape(found[1]).startswith(expected), found[1]
    page = proxy.logged(1, lambda line: line["path"] == "/")[0]
    assert (page["protocol"], page["status"]) == ("HTTP/2.0", 200)
    socket = proxy.logged(1, lambda line: line["path"] == "/socket")[0]
    assert (socket["protocol"], socket["status"]) == ("HTTP/1.1", 101)
