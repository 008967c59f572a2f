"""The only import switch: the native leaf functions if they were built, else their twin in Python.

`EDGEPROXY_PURE=1` forces the twin. Both pass the same tests, and `ENGINE` says which one is at work.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeproxy.codec._native import (
        ChunkDecoder,
        Edits,
        Forward,
        RequestHead,
        ResponseHead,
        find_head_end,
        parse_request,
        parse_response,
        request_from_fields,
        response_from_fields,
        trailer_fields,
        trailers_from_fields,
    )

    ENGINE: str
else:
    ENGINE = "pure"
    if os.environ.get("EDGEPROXY_PURE", "") not in ("1", "true", "yes"):
        try:
            from edgeproxy.codec._native import (
                ChunkDecoder,
                Edits,
                Forward,
                RequestHead,
                ResponseHead,
                find_head_end,
                parse_request,
                parse_response,
                request_from_fields,
                response_from_fields,
                trailer_fields,
                trailers_from_fields,
            )
            ENGINE = "native"
        except ImportError:
            pass
    if ENGINE == "pure":
        from edgeproxy.codec._pure import (
            ChunkDecoder,
            Edits,
            Forward,
            RequestHead,
            ResponseHead,
            find_head_end,
            parse_request,
            parse_response,
            request_from_fields,
            response_from_fields,
            trailer_fields,
            trailers_from_fields,
        )

__all__ = ["ENGINE", "ChunkDecoder", "Edits", "Forward", "RequestHead", "ResponseHead", "find_head_end",
           "parse_request", "parse_response", "request_from_fields", "response_from_fields", "trailer_fields",
           "trailers_from_fields"]
