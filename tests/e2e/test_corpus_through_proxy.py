"""Every row of the corpus through the running proxy, judged on both sides, with the native and the pure codec.

`http-garden.jsonl` is not part of this repository; it is run too if it lies beside the checkout (../shared/corpus).
"""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from e2e.program import StartEdge, free_port, web

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "http-garden.jsonl"
FILES = [*sorted(CORPUS.glob("*.jsonl")), *([BESIDE] if BESIDE.is_file() else [])]


def test_all_rows_pass(edge: StartEdge, tmp_path: Path) -> None:
    """Both engines at the same time: most of it is waiting."""
    assert len(FILES) >= 5
    rows = sum(len(file.read_text().splitlines()) for file in FILES)
    running = {engine: _start(edge, tmp_path / f"{engine}.json", env)
               for engine, env in (("as built", {}), ("pure", {"EDGEPROXY_PURE": "1"}))}
    for engine, process in running.items():
        printed, _ = process.communicate(timeout=100)
        report = tmp_path / f"{engine}.json"
        assert report.exists(), printed
        told = json.loads(report.read_text())
        assert told["failures"] == [], engine
        assert told["rows"] == rows


def _start(edge: StartEdge, report: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    port, origin = free_port(), free_port()
    edge(web(port, origin), env)
    return subprocess.Popen([sys.executable, str(CORPUS / "run_corpus.py"), "--target", f"127.0.0.1:{port}",
                             "--origin", f"127.0.0.1:{origin}", "--json", str(report), *map(str, FILES)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
