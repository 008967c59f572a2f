"""Every row of the corpus through the running proxy, judged on both sides, with the native and the pure codec.

`http-garden.jsonl` is not part of this repository; it is run too if it lies beside the checkout (../shared/corpus).
"""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.program import StartEdge, free_port, web

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "http-garden.jsonl"
FILES = [*sorted(CORPUS.glob("*.jsonl")), *([BESIDE] if BESIDE.is_file() else [])]


@pytest.mark.parametrize("engine", ["as built", "pure"])
def test_all_rows_pass(edge: StartEdge, tmp_path: Path, engine: str) -> None:
    assert len(FILES) >= 5
    port, origin = free_port(), free_port()
    edge(web(port, origin), {"EDGEPROXY_PURE": "1"} if engine == "pure" else None)
    report = tmp_path / "report.json"
    done = subprocess.run([sys.executable, str(CORPUS / "run_corpus.py"), "--target", f"127.0.0.1:{port}", "--origin",
                           f"127.0.0.1:{origin}", "--json", str(report), *map(str, FILES)],
                          capture_output=True, text=True, timeout=100)
    assert report.exists(), done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["failures"] == []
    assert told["rows"] == sum(len(file.read_text().splitlines()) for file in FILES)
