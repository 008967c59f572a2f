"""A word to the compiler of the hot path (mypyc) that is nothing at run time, so that its package is needed by nobody.

Not compiled itself: there `TYPE_CHECKING` is taken for true.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:
    def mypyc_attr(**words: Any) -> Any:
        return lambda kind: kind

__all__ = ["mypyc_attr"]
