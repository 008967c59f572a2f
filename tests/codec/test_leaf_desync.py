"""Nothing that came by HTTP/2 is sent on as something else: proved over generated messages, for both engines.

The strict reader of HTTP/1, h11 and hyper-h2 are the witnesses: what is accepted as fields is read back by each of them
as the same message, and whatever the engines refuse, they refuse with the same words.
"""
from __future__ import annotations

import importlib
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from leaf_fields import (
    Fields,
    agrees,
    answers_agree,
    field_requests,
    field_responses,
    field_trailers,
    head_values,
    read_answer,
    read_fields,
    read_trailers,
)
from leaf_messages import MAX_FIELDS, MAX_HEAD, feed, requests, responses

STEADY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                                                          HealthCheck.filter_too_much])


def accepted(parse: Any, *arguments: Any) -> Any:
    """What came of it; the example is passed over if that is a refusal."""
    try:
        got = parse(*arguments)
    except ValueError:
        got = None
    assume(got is not None)
    return got


@STEADY
@given(fields=field_requests(), ended=st.booleans())
def test_requests_by_http_2(leaf: Any, fields: Fields, ended: bool) -> None:
    head = accepted(leaf.request_from_fields, fields, ended, MAX_HEAD, MAX_FIELDS)
    given_ = dict(reversed(fields))
    assert (head.method.encode(), head.target.encode("latin-1")) == (given_[b":method"], given_[b":path"])
    assert head.authority.encode().lower() == given_.get(b":authority", given_.get(b"host", b"")).lower()
    length = given_.get(b"content-length")
    assert head.length == (int(length) if length is not None else 0 if ended else -1)
    assert (head.major, head.minor, head.keep_alive, head.upgrade) == (2, 1, True, None)
    agrees(leaf, head)


@STEADY
@given(raw=requests())
def test_requests_by_http_1(leaf: Any, raw: bytes) -> None:
    head = accepted(leaf.parse_request, raw, MAX_HEAD, MAX_FIELDS)
    assume(head.host and head.minor and not head.upgrade)
    agrees(leaf, head)


@STEADY
@given(fields=field_responses(), head_request=st.booleans(), ended=st.booleans())
def test_responses_by_http_2(leaf: Any, fields: Fields, head_request: bool, ended: bool) -> None:
    head = accepted(leaf.response_from_fields, fields, head_request, ended, MAX_HEAD, MAX_FIELDS)
    assert b"%d" % head.status == dict(fields)[b":status"] and head.keep_alive
    if not ended and not head_request and head.status not in (204, 304) and head.status >= 200:
        length = dict(reversed(fields)).get(b"content-length")
        assert head.length == (-1 if length is None else int(length))
    else:
        assert head.length == 0
    answers_agree(leaf, head, head_request)


@STEADY
@given(raw=responses(), head_request=st.booleans())
def test_responses_by_http_1(leaf: Any, raw: bytes, head_request: bool) -> None:
    answers_agree(leaf, accepted(leaf.parse_response, raw, head_request, MAX_HEAD, MAX_FIELDS), head_request)


@STEADY
@given(fields=field_trailers())
def test_trailers_by_http_2(leaf: Any, fields: Fields) -> None:
    lines = accepted(leaf.trailers_from_fields, fields)
    assert feed(leaf, [b"0\r\n" + lines + b"\r\n"], 1 << 16) == (b"", True, b"", lines)
    got = leaf.trailer_fields(lines)
    assert leaf.trailers_from_fields(got) == lines
    assert all(pair in fields for pair in got)


# ---- other readers ---------------------------------------------------------------------------------------------

@STEADY
@given(fields=field_requests(), ended=st.booleans())
def test_h11_reads_the_same(leaf: Any, fields: Fields, ended: bool) -> None:
    head = accepted(leaf.request_from_fields, fields, ended, MAX_HEAD, MAX_FIELDS)
    assume(head.target.isascii())
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(head.outbound(leaf.Forward(b"192.0.2.7", b"https", b"1", True), b"i", None, None, None))
    seen = connection.next_event()
    assert isinstance(seen, h11.Request)
    found = dict(seen.headers)
    assert (seen.method.decode(), seen.target.decode(), found[b"host"].decode()) == (head.method, head.target, head.authority)
    assert head.length == (-1 if b"transfer-encoding" in found else int(found.get(b"content-length", 0)))
    assert isinstance(connection.next_event(), h11.EndOfMessage) == (head.length == 0)


@STEADY
@given(fields=field_requests(), ended=st.booleans())
def test_hyper_h2_accepts_what_we_accept(leaf: Any, fields: Fields, ended: bool) -> None:
    h2 = pytest.importorskip("h2.connection")
    events, config = importlib.import_module("h2.events"), importlib.import_module("h2.config").H2Configuration
    head = accepted(leaf.request_from_fields, fields, ended, MAX_HEAD, MAX_FIELDS)
    # it minds the case of names, and joins an empty crumb to a cookie with white space at its end, which it then refuses
    assume(len({value for name, value in fields if name in (b":authority", b"host")}) == 1 and (b"cookie", b"") not in fields)
    sender = h2.H2Connection(config(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False))
    reader = h2.H2Connection(config(client_side=False, header_encoding=None))
    sender.initiate_connection()
    # what comes in, and what goes out to an HTTP/2 endpoint
    for stream, sent in ((1, fields), (3, head.outbound_fields(leaf.Forward(b"", b"", b"", False), b"i", None, None, None, b"https"))):
        sender.send_headers(stream, sent, end_stream=head.length == 0)
        seen = [event for event in reader.receive_data(sender.data_to_send()) if isinstance(event, events.RequestReceived)]
        assert len(seen) == 1 and dict(seen[0].headers)[b":path"] == head.target.encode("latin-1")


# ---- the twins -------------------------------------------------------------------------------------------------

LIMITS = st.one_of(st.just((MAX_HEAD, MAX_FIELDS)), st.tuples(st.integers(100, 500), st.integers(0, 5)))


@STEADY
@given(fields=field_requests(), ended=st.booleans(), limits=LIMITS)
def test_the_twins_read_the_same_request(twins: tuple[Any, Any], fields: Fields, ended: bool, limits: tuple[int, int]) -> None:
    pure, native = (read_fields(leaf, fields, ended, *limits) for leaf in twins)
    assert pure == native


@STEADY
@given(fields=field_responses(), head_request=st.booleans(), ended=st.booleans(), limits=LIMITS)
def test_the_twins_read_the_same_response(twins: tuple[Any, Any], fields: Fields, head_request: bool, ended: bool,
                                          limits: tuple[int, int]) -> None:
    pure, native = (read_answer(leaf, fields, head_request, ended, *limits) for leaf in twins)
    assert pure == native


@STEADY
@given(fields=field_trailers())
def test_the_twins_read_the_same_trailers(twins: tuple[Any, Any], fields: Fields) -> None:
    pure, native = (read_trailers(leaf, fields) for leaf in twins)
    assert pure == native


@STEADY
@given(raw=requests())
def test_the_twins_send_the_same_fields(twins: tuple[Any, Any], raw: bytes) -> None:
    pure, native = (head_values(leaf, accepted(leaf.parse_request, raw, MAX_HEAD, MAX_FIELDS)) for leaf in twins)
    assert pure == native


@STEADY
@given(lines=st.text("aA:  \r\n\0", max_size=12).map(str.encode))
def test_the_twins_split_the_same_lines(twins: tuple[Any, Any], lines: bytes) -> None:
    results = []
    for leaf in twins:
        try:
            results.append(leaf.trailer_fields(lines))
        except ValueError as why:
            results.append(why.args)
    assert results[0] == results[1]
