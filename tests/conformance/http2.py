"""h2spec, every case, the strict one too: over TLS and over h2c, with both engines."""
from __future__ import annotations

import shutil
import subprocess
import time
from xml.etree import ElementTree

from conformance.result import Result, Site

ENGINES = ("ngh2", "h2")
_SECONDS = 300


def run(site: Site, result: Result) -> None:
    tool = shutil.which("h2spec")
    if tool is None:
        result.missing.append("h2spec (go install github.com/summerwind/h2spec/cmd/h2spec@latest)")
        return
    for engine in ENGINES:
        plain, secure = site.start({"EDGEPROXY_H2": engine})
        _one(site, result, tool, f"{engine} over h2c", ["-p", str(plain)])
        _one(site, result, tool, f"{engine} over TLS", ["-t", "-k", "-p", str(secure)])
        site.stop()


def _one(site: Site, result: Result, tool: str, title: str, options: list[str]) -> None:
    report = site.folder / "h2spec.xml"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    command = [tool, "--strict", "--host", "127.0.0.1", "--junit-report", str(report), *options]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        result.failed += 1
        print(f"h2spec, {title}: not done within {_SECONDS} s")
        return
    if not report.exists():
        result.failed += 1
        print(f"h2spec, {title}: no report\n{said.stdout[-2000:]}{said.stderr[-2000:]}")
        return
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if any(child.tag in ("failure", "error") for child in case)]
    skipped = [case for case in cases if any(child.tag == "skipped" for child in case)]
    for case in bad:
        print(f"h2spec, {title}: FAILED {case.get('package')} {case.get('classname')}")
        print("    " + " / ".join((" ".join(child.itertext())).strip().replace("\n", " / ") for child in case))
    for case in skipped:
        print(f"h2spec, {title}: skipped {case.get('package')} {case.get('classname')}")
    good = len(cases) - len(bad) - len(skipped)
    result.passed += good
    result.failed += len(bad)
    print(f"h2spec, {title}: {good} of {len(cases)} passed, {len(skipped)} skipped, {time.monotonic() - began:.0f} s",
          flush=True)

