"""What a route leads to: services by weight, new paths, redirects, ready-made answers."""
from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.codec.headers import normal_path
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.route import Route


def prefix(value: str) -> model.PathMatch:
    return model.PathMatch("prefix", value)


def regex(value: str) -> model.PathMatch:
    return model.PathMatch("regex", value)


def target(path: model.PathMatch, rewrite: model.Rewrite, sent: str) -> str:
    """The target that goes out for a request target in origin form."""
    raw, _, query = sent.partition("?")
    route = Route(model.Route("r", path=path, rewrite=rewrite, service=(model.WeightedService("app"),)), 0)
    assert route.rewrites
    return route.target_for(normal_path(raw.encode("latin-1")), query, sent).decode("latin-1")


def location(redirect: model.Redirect, sent: str, *, path: model.PathMatch | None = None, scheme: str = "http",
             host: str = "old.example.com", port: int = 80) -> str:
    raw, _, query = sent.partition("?")
    route = Route(model.Route("r", path=path or prefix("/"), redirect=redirect), 0)
    return route.location_for(scheme, host, port, normal_path(raw.encode("latin-1")), query)


# ---- another prefix

@pytest.mark.parametrize(("sent", "matched", "new", "expected"), [  # the table of the Gateway API
    ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
    ("/foo", "/foo", "/xyz", "/xyz"),
    ("/foo/", "/foo", "/xyz", "/xyz/"),
    ("/foo/bar", "/foo", "/", "/bar"),
    ("/foo/", "/foo", "/", "/"),
    ("/foo", "/foo", "/", "/"),
    ("/foo/bar", "/", "/app", "/app/foo/bar"),
    ("/", "/", "/app", "/app/"),
    ("/foo//bar", "/foo", "/x", "/x//bar"),
    ("/foo/bar?a=/foo&b=%20", "/foo", "/x", "/x/bar?a=/foo&b=%20"),
    ("/foo?", "/foo", "/x", "/x"),
    ("/foo", "/foo", "/caf\u00e9 x", "/caf%C3%A9%20x"),
])
def test_prefix_replaced(sent: str, matched: str, new: str, expected: str) -> None:
    assert target(prefix(matched), model.Rewrite(prefix=new), sent) == expected


@pytest.mark.parametrize(("sent", "expected"), [
    ("/foo/%7e%61%2F%c3%a9/\xe9", "/new/%7e%61%2F%c3%a9/\xe9"),   # the rest goes out as it came
    ("/f%6fo/%61", "/new/%61"),                                   # …whatever the spelling of the prefix
    ("/foo%2Fbar/x", None),                                       # an encoded slash is no boundary
    ("/x/../foo/%61", "/new/a"),                                  # dot segments: what was matched goes out
    ("/foo/../foo/secret", "/new/secret"),
    ("/foo/%2e%2E/foo/secret", "/new/secret"),
    ("/foo/a/./b/../c", "/new/a/c"),
    ("/foo/.hidden/%61", "/new/.hidden/%61"),
    ("/foo/%61/.", "/new/%61/."),
    ("/foo/%61/..", "/new/"),
    ("/foo/%61/b/%2e.", "/new/a/"),
    ("/foo/..", None),                                            # that is "/"
])
def test_what_was_matched_goes_out(sent: str, expected: str | None) -> None:
    if expected is None:
        path = normal_path(sent.encode("latin-1"))
        assert path != "/foo" and not path.startswith("/foo/")
    else:
        assert target(prefix("/foo"), model.Rewrite(prefix="/new"), sent) == expected


def test_absolute_form_goes_out_in_origin_form() -> None:
    route = Route(model.Route("r", path=prefix("/foo"), rewrite=model.Rewrite(prefix="/new"),
                              service=(model.WeightedService("app"),)), 0)
    assert route.target_for("/foo/a", "q=1", "http://a.example.com/foo/%61?q=1") == b"/new/a?q=1"


PIECES = st.sampled_from(("/", "foo", "f%6Fo", ".", "..", "%2e", "%2E%2e", "%2F", "a", "%61", "%252e", "\xe9", "..;"))


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=14).map(lambda parts: "/foo/" + "".join(parts)))
def test_a_new_prefix_is_never_left(sent: str) -> None:
    """Whatever spelling: the endpoint resolves what it gets to the new prefix and the rest that was matched."""
    try:
        path = normal_path(sent.encode("latin-1"))
    except ValueError:
        return
    if path != "/foo" and not path.startswith("/foo/"):
        return
    sent_on = target(prefix("/foo"), model.Rewrite(prefix="/new/deep"), sent)
    assert normal_path(sent_on.encode("latin-1")) == "/new/deep" + path[len("/foo"):]


# ---- a whole new path

def test_whole_path_replaced_and_the_query_kept() -> None:
    assert target(prefix("/a"), model.Rewrite(path="/b $1"), "/a/x?q=1") == "/b%20$1?q=1"
    assert target(model.PathMatch("exact", "/a"), model.Rewrite(path="/b"), "/a") == "/b"


def test_groups_of_the_regex() -> None:
    match = regex("^/v([0-9]+)/([a-z]+)(/x)?")
    assert target(match, model.Rewrite(path="/$2/api-$1$3"), "/v12/users/y?q=$1") == "/users/api-12?q=$1"
    assert target(match, model.Rewrite(path="/$2$3"), "/v1/users/x") == "/users/x"
    assert target(regex("^/(.*)"), model.Rewrite(path="$1"), "/a/b") == "/a/b"
    assert target(regex("^/(.*)"), model.Rewrite(path="/x/$1"), "/caf%c3%a9") == "/x/caf%C3%A9"


@pytest.mark.parametrize("sent", ["/v1../secret", "/v1..", "/v1./x", "/v1%2e./secret"])
def test_a_group_never_makes_the_path_climb(sent: str) -> None:
    with pytest.raises(ProxyError) as caught:
        target(regex("^/v1(.*)"), model.Rewrite(path="/x/$1"), sent)
    assert caught.value.kind is Kind.BAD_REQUEST


def test_what_the_loader_should_have_refused() -> None:
    with pytest.raises(ValueError, match="group"):
        target(regex("^/(a)"), model.Rewrite(path="/$2"), "/a")
    with pytest.raises(ValueError, match="prefix"):
        target(regex("^/(a)"), model.Rewrite(prefix="/b"), "/a")


# ---- redirects

@pytest.mark.parametrize(("redirect", "expected"), [
    (model.Redirect(scheme="https"), "https://old.example.com/a/b?q=1"),
    (model.Redirect(scheme="https", port=8443), "https://old.example.com:8443/a/b?q=1"),
    (model.Redirect(scheme="http"), "http://old.example.com/a/b?q=1"),
    (model.Redirect(host="new.example.com"), "http://new.example.com:8080/a/b?q=1"),
    (model.Redirect(host="new.example.com", port=80), "http://new.example.com/a/b?q=1"),
    (model.Redirect(host="new.example.com", scheme="https"), "https://new.example.com/a/b?q=1"),
    (model.Redirect(port=443), "http://old.example.com:443/a/b?q=1"),
    (model.Redirect(path="/x"), "http://old.example.com:8080/x?q=1"),
    (model.Redirect(path="/x y/$1"), "http://old.example.com:8080/x%20y/$1?q=1"),
    (model.Redirect(prefix="/x"), "http://old.example.com:8080/x/b?q=1"),
    (model.Redirect(prefix="/"), "http://old.example.com:8080/b?q=1"),
])
def test_parts_that_are_not_named_are_kept(redirect: model.Redirect, expected: str) -> None:
    assert location(redirect, "/a/b?q=1", path=prefix("/a"), port=8080) == expected


def test_ports_and_addresses() -> None:
    assert location(model.Redirect(path="/x"), "/", port=80) == "http://old.example.com/x"
    assert location(model.Redirect(path="/x"), "/", scheme="https", port=443) == "https://old.example.com/x"
    assert location(model.Redirect(path="/x"), "/", host="[::1]", port=8080) == "http://[::1]:8080/x"
    assert location(model.Redirect(path="/x"), "/", host="::1") == "http://[::1]/x"


def test_without_a_host_the_location_never_names_another_one() -> None:
    assert location(model.Redirect(scheme="https"), "//evil.example.com/x", host="") == "/evil.example.com/x"
    assert location(model.Redirect(prefix="/"), "/a//evil.example.com", host="", path=prefix("/a")
                    ) == "/evil.example.com"


# ---- services and answers

def test_one_service_needs_no_choice() -> None:
    route = Route(model.Route("r", service=(model.WeightedService("a", 0), model.WeightedService("b", 3))), 0)
    assert route.service == "b" and route.split is None


def test_shares_of_a_split() -> None:
    services = tuple(model.WeightedService(*pair) for pair in (("a", 90), ("none", 0), ("b", 9), ("c", 1)))
    route = Route(model.Route("r", service=services), 0)
    assert route.service is None and route.split is not None
    rng = random.Random(1)
    counts = Counter(route.split.choose(rng) for _ in range(100_000))
    assert set(counts) == {"a", "b", "c"}
    expected = {"a": 90_000, "b": 9_000, "c": 1_000}
    assert sum((counts[name] - n) ** 2 / n for name, n in expected.items()) < 13.8  # chi-square, 2 degrees, p = 0.001


def test_a_split_without_any_weight_takes_nothing() -> None:
    for count in (1, 2):
        services = tuple(model.WeightedService(str(i), 0) for i in range(count))
        route = Route(model.Route("r", service=services), 0)
        assert route.service is None and route.split is not None and route.split.choose(random.Random(1)) is None


def test_answers_and_field_edits_are_ready_made() -> None:
    route = Route(model.Route("r", respond=model.Respond(200, "pong\u00e9\n"),
                              response_headers=model.HeaderEdits(set=(("x-env", "prod"),), remove=("server",))), 0)
    assert route.respond == (200, "pong\u00e9\n".encode(), b"text/plain; charset=utf-8")
    assert route.service is None and route.split is None
    assert route.request_edits is None
    assert route.response_edits == (((b"x-env", b"prod"),), (), (b"server",))


def test_a_new_host_alone_leaves_the_target_as_it_came() -> None:
    route = Route(model.Route("r", rewrite=model.Rewrite(host="internal"),
                              service=(model.WeightedService("a"),)), 0)
    assert route.rewrite_host == b"internal" and not route.rewrites
