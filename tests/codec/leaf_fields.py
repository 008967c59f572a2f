"""Messages of HTTP/2 for the tests of the leaf functions: how they are built, read and generated."""
from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from leaf_messages import (
    FIELDS,
    HOSTS,
    MAX_FIELDS,
    MAX_HEAD,
    METHODS,
    OTHER_NAMES,
    OTHER_VALUES,
    REQUEST_ATTRIBUTES,
    STATUSES,
    TARGETS,
    names,
    request_values,
    response_values,
)

Fields = list[tuple[bytes, bytes]]
REQUEST: Fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/a?b")]
RESPONSE: Fields = [(b":status", b"200")]


def request(*fields: tuple[bytes, bytes], **pseudo: bytes | None) -> Fields:
    """A good request with these fields; a pseudo-header field given by name replaces the good one, None takes it out."""
    out = [(name, pseudo.get(name[1:].decode(), value)) for name, value in REQUEST]
    return [(name, value) for name, value in out if value is not None] + [*fields]


def onward(leaf: Any, head: Any, trusted: bool = False, target: bytes | None = None, host: bytes | None = None, edits: Any = None) -> Fields:
    forward = leaf.Forward(b"192.0.2.7", b"https", b"8443", trusted, b"Hash=ab")
    out: Fields = head.outbound_fields(forward, b"the-id", target, host, edits, b"http")
    return out


def head_values(leaf: Any, head: Any) -> dict[str, Any]:
    """What a request is and what it is sent on as, to either kind of endpoint."""
    edits = leaf.Edits([(b"X-Set", b" 1"), (b"accept", b"a")], [(b"Via", b"2")], [b"Cookie", b"x-forwarded-host", b"x-forwarded-client-cert"])
    values = request_values(leaf, head) | {"major": head.major}
    for trusted in (False, True):
        values[f"fields {trusted}"] = onward(leaf, head, trusted)
        values[f"edited fields {trusted}"] = onward(leaf, head, trusted, b"/new?x", b"new.example", edits)
        for client_cert in (b"Hash=ab", b""):
            forward = leaf.Forward(b"", b"", b"", trusted, client_cert)
            values[f"certified {client_cert!r} {trusted}"] = head.outbound(forward, b"i", None, None, None)
    return values


def answer_values(leaf: Any, head: Any) -> dict[str, Any]:
    edits = leaf.Edits([(b"Server", b"x")], [(b"X-Add", b"2")], [b"Date", b"connection", b"content-length"])
    return response_values(leaf, head) | {"fields": head.inbound_fields(None), "edited fields": head.inbound_fields(edits)}


def read_fields(leaf: Any, fields: Fields, ended: bool, max_head: int = MAX_HEAD, max_fields: int = MAX_FIELDS) -> Any:
    """A dict of values or the arguments of the refusal."""
    try:
        return head_values(leaf, leaf.request_from_fields(fields, ended, max_head, max_fields))
    except ValueError as why:
        return why.args


def read_answer(leaf: Any, fields: Fields, head_request: bool, ended: bool, max_head: int = MAX_HEAD, max_fields: int = MAX_FIELDS) -> Any:
    try:
        return answer_values(leaf, leaf.response_from_fields(fields, head_request, ended, max_head, max_fields))
    except ValueError as why:
        return why.args


def read_trailers(leaf: Any, fields: Fields) -> Any:
    try:
        lines = leaf.trailers_from_fields(fields)
    except ValueError as why:
        return why.args
    return lines, leaf.trailer_fields(lines)


def agrees(leaf: Any, head: Any) -> None:
    """Whatever the proxy sends on for `head` is read as the same request, by HTTP/1 and by HTTP/2, and is no other one."""
    edits = leaf.Edits([(b"X-Forwarded-Client-Cert", b"e"), (b"Content-Length", b"9")], [(b"Transfer-Encoding", b"chunked")], [b"Host"])
    for trusted in (False, True):
        for changes in (None, edits):
            forward = leaf.Forward(b"192.0.2.7", b"https", b"8443", trusted, b"c")
            raw = head.outbound(forward, b"the-id", None, None, changes)
            again = leaf.parse_request(raw, 1 << 20, 1 << 10)
            assert again is not None and again.size == len(raw)
            for name in REQUEST_ATTRIBUTES:
                if name not in ("size", "keep_alive", "minor"):
                    assert getattr(again, name) == getattr(head, name), name
            assert [value for name, value in again.fields() if name.lower() == b"host"] == [head.authority.encode()]
            assert again.get(b"x-forwarded-client-cert") == (b"c" if changes is None else b"e")
            sent = head.outbound_fields(forward, b"the-id", None, None, changes, b"https")
            over = leaf.request_from_fields(sent, head.length == 0, 1 << 20, 1 << 10)
            for name in ("method", "target", "path", "query", "host", "authority", "length", "expect"):
                assert getattr(over, name) == getattr(head, name), name
            assert names(over) == names(again) - {b"transfer-encoding", b"connection"}
            if head.major == 2:
                # nothing is there that nobody sent, save that there is no body where one is usual
                known = names(head) | {b"x-request-id", b"via"} | {b"x-forwarded-" + part for part in (b"for", b"proto", b"port", b"host", b"client-cert")}
                if head.length == 0 and head.method in ("PATCH", "POST", "PUT"):
                    known |= {b"content-length"}
                assert names(over) <= known


def answers_agree(leaf: Any, head: Any, head_request: bool) -> None:
    """Whatever a client is sent for `head` is read as the same response."""
    if head.status == 101:  # only HTTP/1 has it, and only between the two that agreed on it
        return
    for minor in (0, 1):
        for close in (False, True):
            raw = head.inbound(minor, close, None)
            again = leaf.parse_response(raw, head_request, 1 << 20, 1 << 10)
            assert again.size == len(raw) and again.status == head.status
            assert again.length == (head.length if head.length >= 0 else -1 if minor else -2)
    sent = head.inbound_fields(None)
    over = leaf.response_from_fields(sent, head_request, head.length == 0 and head.status >= 200, 1 << 20, 1 << 10)
    assert (over.status, over.length) == (head.status, max(head.length, -1))
    stated = over.get(b"content-length")
    assert stated is None or int(stated) == int(head.get(b"content-length"))
    assert names(over) <= names(head)


# ---- generated messages ----------------------------------------------------------------------------------------

ODD_BYTES = st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"A", b"\x7f", b"\x01", b"\xe9", b"#", b"%00", b"@", b"(",
                             b" HTTP/1.1\r\nHost: b\r\n\r\nGET / HTTP/1.1", b"\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b": b\r\nx"])
MORE_NAMES = st.sampled_from([b"cookie", b"cookie", b"content-length", b"transfer-encoding", b"connection", b"te", b"trailer", b"host", b"expect",
                              b"x-forwarded-client-cert", b"x_forwarded-client_cert", b"http2-settings", b"grpc-status", b"x"])


@st.composite
def fields(draw: st.DrawFn, odd: bool = False) -> Fields:
    """Fields beside the pseudo-header fields; those that HTTP/2 forbids only among odd ones."""
    out: Fields = []
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(FIELDS)))
            value = FIELDS[name].pick(draw, odd)
        else:
            name, value = draw(st.one_of(OTHER_NAMES, MORE_NAMES)), draw(OTHER_VALUES).strip(b" \t")
        name = name.lower()
        if not odd and name in (b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection", b"host", b"te", b"expect"):
            name, value = draw(st.sampled_from([(b"te", b"trailers"), (b"host", b"a.example"), (b"expect", b"100-continue"), (b"cookie", value)]))
        out.append((name, value))
    return out


@st.composite
def spoilt(draw: st.DrawFn, good: Fields) -> Fields:
    """`good` with something put into a name or a value, in another order, twice, or less."""
    out = [*good]
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from("name value value swap double drop insert".split()))
        at = draw(st.integers(0, max(0, len(out) - 1)))
        if kind == "insert" or not out:
            out.insert(at, draw(st.sampled_from([(b":status", b"200"), (b":protocol", b"websocket"), (b":", b""), (b"", b""), (b":path", b"/b"),
                                                 (b"host", b"b"), (b":authority", b"b"), (b"content-length", b"0"), (b":method", b"POST")])))
        elif kind in ("name", "value"):
            part = draw(ODD_BYTES)
            name, value = out[at]
            text = name if kind == "name" else value
            place = draw(st.integers(0, len(text)))
            text = text[:place] + part + text[place:]
            out[at] = (text, value) if kind == "name" else (name, text)
        elif kind == "swap":
            other = draw(st.integers(0, len(out) - 1))
            out[at], out[other] = out[other], out[at]
        elif kind == "double":
            out.append(out[at])
        else:
            del out[at]
    return out


@st.composite
def field_requests(draw: st.DrawFn) -> Fields:
    odd = draw(st.integers(0, 12))
    host = HOSTS.pick(draw, odd == 1)
    pseudo = [(b":method", METHODS.pick(draw, odd == 2)), (b":scheme", draw(st.sampled_from([b"http", b"https"])) if odd != 3 else b"ftp"),
              (b":path", TARGETS.pick(draw, odd == 4))]
    if pseudo[2][1].startswith(b"http") and odd != 4:
        pseudo[2] = (b":path", b"/")
    more = draw(fields(odd in (5, 6)))
    if draw(st.booleans()):
        pseudo.append((b":authority", host))
        more = [(name, host if name == b"host" and odd != 7 else value) for name, value in more]
    elif not any(name == b"host" for name, _ in more):
        more.insert(draw(st.integers(0, len(more))), (b"host", host))
    whole = draw(st.permutations(pseudo)) + more
    return draw(spoilt(whole)) if odd > 8 else whole


@st.composite
def field_responses(draw: st.DrawFn) -> Fields:
    odd = draw(st.integers(0, 8))
    whole = [(b":status", STATUSES.pick(draw, odd == 1)), *draw(fields(odd == 2))]
    return draw(spoilt(whole)) if odd > 5 else whole


@st.composite
def field_trailers(draw: st.DrawFn) -> Fields:
    whole = draw(fields())
    return draw(spoilt(whole)) if draw(st.booleans()) else whole
