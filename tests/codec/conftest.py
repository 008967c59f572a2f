"""The engines under test: every test that takes `leaf` runs for the Python twin and for the native leaf functions."""
from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(params=["_pure", "_native"])
def leaf(request: pytest.FixtureRequest) -> Any:
    if request.param == "_native":
        return pytest.importorskip("edgeproxy.codec._native", reason="the native codec is not built")
    return importlib.import_module("edgeproxy.codec._pure")


@pytest.fixture
def twins() -> tuple[Any, Any]:
    return (importlib.import_module("edgeproxy.codec._pure"),
            pytest.importorskip("edgeproxy.codec._native", reason="the native codec is not built"))
