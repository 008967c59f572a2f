"""testssl.sh against the default configuration: no finding above LOW.

What is the authority's or the site's is not the proxy's; `EXCEPTED` names these findings and says why each is one.
"""
from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from conformance.result import Result, Site
from e2e.tlspeers import NAME

SEVERE = ("MEDIUM", "HIGH", "CRITICAL")
EXCEPTED = {
    "cert_revocation": "a test's authority publishes no list of revoked certificates and answers no OCSP",
    "security_headers": "which of them a site wants is the site's business; HSTS is set here, as a site would",
}
_SECONDS = 600


def run(site: Site, result: Result) -> None:
    tool = shutil.which("testssl") or shutil.which("testssl.sh")
    if tool is None:
        result.missing.append("testssl.sh (Debian: apt-get install testssl.sh)")
        return
    hsts = ', response_headers: {set: {strict-transport-security: "max-age=63072000"}}'
    _, secure = site.start({}, hsts)
    report = site.folder / "testssl.json"
    command = [tool, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1",
               "--add-ca", str(site.authority.pem), "--jsonfile", str(report), f"{NAME}:{secure}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        result.failed += 1
        print(f"testssl.sh: not done within {_SECONDS} s")
        return
    findings: list[dict[str, Any]] = json.loads(report.read_text())
    bad = [finding for finding in findings if finding["severity"] in SEVERE and not _excepted(finding["id"])]
    told = [finding["id"] for finding in findings if finding["id"] in ("TLS1_2", "TLS1_3", "ALPN_HTTP2")]
    for finding in bad:
        print(f"testssl.sh: {finding['severity']} {finding['id']}: {finding['finding']}")
    if len(told) < 3:
        bad.append({})
        print(f"testssl.sh: it saw nothing ({told})\n{said.stdout[-3000:]}")
    result.failed += len(bad)
    result.passed += sum(1 for finding in findings if finding["severity"] == "OK")
    print(f"testssl.sh: {len(findings)} findings, {len(bad)} above LOW", flush=True)
    site.stop()


def _excepted(name: str) -> bool:
    return name.split()[0] in EXCEPTED
