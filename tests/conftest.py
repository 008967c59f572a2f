"""What holds for every test: hypothesis without chance and without deadlines.

Hangs are ended by pytest's faulthandler (pyproject.toml), those of tests marked `patience` later. Tests never sleep; markers are declared here.
A compiled module that is older than its source would test what is no longer there: nothing runs then.
"""
from __future__ import annotations

import faulthandler
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("steady", derandomize=True, deadline=None, database=None, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin the time of a test that is marked `patience`: there is one timer, pytest's, and it ends that of any test."""
    marker = item.get_closest_marker("patience")
    if marker is not None and item.config.getini("faulthandler_timeout"):
        with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            stderr = os.dup(2)  # where pytest has it, and not where the test's output is kept
        faulthandler.dump_traceback_later(marker.args[0], exit=True, file=stderr)


def pytest_sessionstart() -> None:
    if os.environ.get("EDGEPROXY_PURE", "") in ("1", "true", "yes"):  # then the sources are what runs
        return
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["edgeproxy"]["compiled"]
    stale = [name for name in listed for library in (ROOT / name).parent.glob(f"{Path(name).stem}.*.so")
             if library.stat().st_mtime < (ROOT / name).stat().st_mtime]
    if stale:
        raise pytest.UsageError(f"compiled modules are older than their source: {', '.join(stale)}; `make test` builds "
                                "them again, EDGEPROXY_PURE=1 tests the sources, "
                                "`find edgeproxy -name '*.cpython*.so' -delete` goes on without them")
