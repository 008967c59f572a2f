"""grpc.health.v1 as bytes: the one question that a probe asks, and its answer (gRPC's health-checking.md and
PROTOCOL-HTTP2.md; protobuf's encoding.md).

Two messages of one field each, written and read by hand: HealthCheckRequest (1: string service), HealthCheckResponse
(1: enum status). What else an answer holds is passed over, as protobuf asks for.
"""
from __future__ import annotations

from typing import Final

CHECK: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = 1
UNIMPLEMENTED: Final = "UNIMPLEMENTED"
NOT_FOUND: Final = "NOT_FOUND"

_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
          "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
          "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")


def encode_check(service: str) -> bytes:
    """HealthCheckRequest in its five bytes of frame: not compressed, and how long. Empty: the whole server."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def read_check(body: bytes) -> int:
    """`status` of the HealthCheckResponse that a whole body holds. Raises ValueError(what is wrong)."""
    if len(body) < 5:
        raise ValueError("the answer holds no message")
    if body[0]:
        raise ValueError("the answer is compressed, unasked")
    if len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise ValueError("the answer has another length than it says")
    at, status = 5, 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(body, at)
            if tag == 8:
                status = value
        elif kind == 2:
            size, at = _read_varint(body, at)
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("the answer is no HealthCheckResponse")
    if at > len(body):
        raise ValueError("the answer is no HealthCheckResponse")
    return status


def state_word(status: int) -> str:
    return _STATES[status] if status < len(_STATES) else f"status {status}"


def code_word(value: bytes) -> str:
    """What the field grpc-status says."""
    number = int(value) if value.isdigit() and len(value) < 10 else len(_CODES)
    return _CODES[number] if number < len(_CODES) else f"status {value[:20].decode('latin-1')}"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("the answer is no HealthCheckResponse")
