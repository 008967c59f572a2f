"""HTTP/2 (RFC 9113): one interface, two engines, and the choice between them.

`h2_base` says what a codec does and tells, `h2_guard` what a peer may cost. nghttp2 (through ngh2) is the engine of
everyday; hyper-h2 stands in where that is missing, and is its oracle in the tests. `EDGEPROXY_H2=ngh2` or `=h2` forces
one of them. Not compiled: mypyc would tie the choice to what is installed where it is built.
"""
from __future__ import annotations

import os

from edgeproxy.codec.h2_base import Fields, H2Codec, Streams
from edgeproxy.codec.h2_guard import H2Limits


def build_codec(user: Streams, client: bool, limits: H2Limits, now: float) -> H2Codec:
    """The codec of one connection; its preface is in the output already."""
    return _engine(user, client, limits, now)


def _choose(wanted: str) -> tuple[str, type[H2Codec]]:
    if wanted != "h2":
        try:
            from edgeproxy.codec.h2_ngh2 import Ngh2Codec

            return "ngh2", Ngh2Codec
        except ImportError:
            if wanted == "ngh2":
                raise
    from edgeproxy.codec.h2_hyper import HyperCodec

    return "h2", HyperCodec


ENGINE, _engine = _choose(os.environ.get("EDGEPROXY_H2", ""))

__all__ = ["ENGINE", "Fields", "H2Codec", "H2Limits", "Streams", "build_codec"]
