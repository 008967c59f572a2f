"""Which route wins: the rules of http.md one by one, then all of them against a plain reading of the rules."""
from __future__ import annotations

import random
import re
from urllib.parse import unquote_plus

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.config import model
from edgeproxy.router import Router, build_router

TO_SERVICE = (model.WeightedService("app"),)


class Asking:
    """The part of a request's head that routing looks at."""

    def __init__(self, fields: dict[bytes, bytes] | None = None, query: str = "") -> None:
        self.fields = fields or {}
        self.query = query

    def get(self, name: bytes, /) -> bytes | None:
        return self.fields.get(name)


class Untouchable:
    @property
    def query(self) -> str:
        raise AssertionError("no route has conditions")

    def get(self, name: bytes, /) -> bytes | None:
        raise AssertionError("no route has conditions")


def route(name: str, *host: str, prefix: str | None = None, exact: str | None = None, regex: str | None = None,
          methods: tuple[str, ...] = (), headers: tuple[tuple[str, str], ...] = (),
          query: tuple[tuple[str, str], ...] = (), listeners: tuple[str, ...] | None = None) -> model.Route:
    path = model.PathMatch("prefix", prefix or "/")
    if exact is not None:
        path = model.PathMatch("exact", exact)
    if regex is not None:
        path = model.PathMatch("regex", regex)
    return model.Route(name, host=host, path=path, methods=methods, headers=headers, query=query, service=TO_SERVICE,
                       listeners=listeners)


def router(*routes: model.Route) -> Router:
    return build_router(model.Config(listeners={}, routes=routes), "web")


def found(table: Router, host: str, path: str, method: str = "GET", head: Asking | Untouchable | None = None
          ) -> str | None:
    route = table.find(host, path, method, head or Asking())
    return None if route is None else route.name


# ---- hosts

def test_exact_host_beats_one_label_beats_many_labels_beats_none() -> None:
    table = router(route("none"), route("many", "**.example.com"), route("one", "*.example.com"),
                   route("exact", "a.example.com"))
    assert found(table, "a.example.com", "/") == "exact"
    assert found(table, "b.example.com", "/") == "one"
    assert found(table, "c.b.example.com", "/") == "many"
    assert found(table, "example.com", "/") == "none"
    assert found(table, "", "/") == "none"


def test_among_many_label_wildcards_the_longest_suffix_wins() -> None:
    table = router(route("short", "**.com"), route("long", "**.b.example.com"), route("middle", "**.example.com"))
    assert found(table, "a.b.example.com", "/") == "long"
    assert found(table, "x.a.b.example.com", "/") == "long"
    assert found(table, "b.example.com", "/") == "middle"
    assert found(table, "example.com", "/") == "short"
    assert found(table, "com", "/") is None


def test_one_label_beats_a_longer_looking_many() -> None:
    table = router(route("many", "**.b.example.com"), route("one", "*.b.example.com"))
    assert found(table, "a.b.example.com", "/") == "one"
    assert found(table, "z.a.b.example.com", "/") == "many"


def test_hosts_in_the_file_may_be_upper_case_and_end_in_a_dot() -> None:
    table = router(route("x", "A.Example.COM."), route("y", "*.Example.ORG"))
    assert found(table, "a.example.com", "/") == "x"
    assert found(table, "a.example.org", "/") == "y"


def test_a_host_of_very_many_labels_is_no_more_work() -> None:
    table = router(route("many", "**.example.com"))
    assert found(table, "a." * 8000 + "example.com", "/") == "many"
    assert found(table, "a." * 8000 + "example.org", "/") is None


def test_a_route_with_several_hosts() -> None:
    table = router(route("both", "a.example.com", "*.example.org"))
    assert found(table, "a.example.com", "/") == found(table, "x.example.org", "/") == "both"


# ---- paths

def test_exact_beats_prefix_beats_regex() -> None:
    table = router(route("regex", regex="^/a"), route("prefix", prefix="/a"), route("exact", exact="/a"))
    assert found(table, "", "/a") == "exact"
    assert found(table, "", "/a/b") == "prefix"
    assert found(table, "", "/ab") == "regex"


def test_a_prefix_matches_by_element() -> None:
    table = router(route("p", prefix="/aaa/bb"))
    assert found(table, "", "/aaa/bbb") is None
    assert found(table, "", "/aaa/bb") == "p"
    assert found(table, "", "/aaa/bb/") == "p"
    assert found(table, "", "/aaa/bb/c/d") == "p"
    assert found(table, "", "/aaa") is None


def test_the_slash_at_the_end_of_a_prefix_is_ignored_and_that_of_an_exact_path_is_not() -> None:
    assert found(router(route("p", prefix="/foo/")), "", "/foo") == "p"
    assert found(router(route("e", exact="/foo/")), "", "/foo") is None


def test_the_longest_prefix_wins() -> None:
    table = router(route("root"), route("a", prefix="/a"), route("abc", prefix="/a/b/c"))
    assert found(table, "", "/a/b/c/d") == "abc"
    assert found(table, "", "/a/b/x/y/z/and/so/on") == "a"
    assert found(table, "", "/b") == "root"


def test_regexes_come_in_file_order() -> None:
    table = router(route("first", regex="^/[ab]"), route("second", regex="^/a"))
    assert found(table, "", "/a") == "first"


def test_the_same_regex_twice_is_told_apart_by_conditions() -> None:
    table = router(route("plain", regex="^/a"), route("between", regex="^/b"),
                   route("post", regex="^/a", methods=("POST",)))
    assert found(table, "", "/a", "POST") == "post"
    assert found(table, "", "/a", "GET") == "plain"
    table = router(route("plain", regex="^/a"), route("between", regex="^/[ab]", methods=("GET", "POST")),
                   route("post", regex="^/a", methods=("POST",)))
    assert found(table, "", "/a", "POST") == "post"
    assert found(table, "", "/a", "GET") == "plain"
    assert found(table, "", "/b", "GET") == "between"


def test_configured_paths_are_compared_in_normal_form() -> None:
    table = router(route("tilde", prefix="/%7euser"), route("accent", prefix="/caf\u00e9"), route("hex", exact="/%c3"))
    assert found(table, "", "/~user/x") == "tilde"
    assert found(table, "", "/caf%C3%A9") == "accent"
    assert found(table, "", "/%C3") == "hex"


def test_a_very_long_path() -> None:
    table = router(route("root"), route("deep", prefix="/x/x/x"))
    assert found(table, "", "/x" * 8000) == "deep"
    assert found(table, "", "/y" * 8000) == "root"


# ---- conditions and falling back

def test_a_method_beats_headers_beats_parameters_beats_the_file() -> None:
    table = router(route("plain"), route("query", query=(("q", "1"),)),
                   route("header", headers=(("x-a", "1"),)),
                   route("headers", headers=(("x-a", "1"), ("x-b", "2"))),
                   route("method", methods=("GET", "HEAD")))
    both = Asking({b"x-a": b"1", b"x-b": b"2"}, "q=1")
    assert found(table, "", "/", "GET", both) == "method"
    assert found(table, "", "/", "PUT", both) == "headers"
    assert found(table, "", "/", "PUT", Asking({b"x-a": b"1"}, "q=1")) == "header"
    assert found(table, "", "/", "PUT", Asking({b"x-a": b"11"}, "q=1")) == "query"
    assert found(table, "", "/", "PUT", Asking(query="q=2")) == "plain"


def test_parameters_are_decoded_and_the_first_of_a_name_counts() -> None:
    table = router(route("q", query=(("na me", "\u00e9 +"),)), route("flag", query=(("flag", ""),)))
    assert found(table, "", "/", head=Asking(query="x=1&na+me=%C3%A9%20%2B")) == "q"
    assert found(table, "", "/", head=Asking(query="na+me=no&na+me=%C3%A9%20%2B")) is None
    assert found(table, "", "/", head=Asking(query="flag")) == "flag"
    assert found(table, "", "/", head=Asking(query="flag=x")) is None


def test_a_host_whose_routes_fit_no_path_falls_back() -> None:
    table = router(route("host", "a.example.com", prefix="/api"), route("wild", "*.example.com", prefix="/web"),
                   route("any"))
    assert found(table, "a.example.com", "/api") == "host"
    assert found(table, "a.example.com", "/web") == "wild"
    assert found(table, "a.example.com", "/x") == "any"


def test_a_path_whose_routes_refuse_the_request_falls_back() -> None:
    table = router(route("exact", exact="/a/b", methods=("POST",)), route("long", prefix="/a/b", methods=("PUT",)),
                   route("short", prefix="/a"), route("regex", regex="^/"))
    assert found(table, "", "/a/b", "POST") == "exact"
    assert found(table, "", "/a/b", "PUT") == "long"
    assert found(table, "", "/a/b", "GET") == "short"
    assert found(table, "", "/b", "GET") == "regex"


def test_a_host_whose_routes_refuse_the_request_falls_back() -> None:
    table = router(route("canary", "a.example.com", headers=(("x-canary", "1"),)), route("any"))
    assert found(table, "a.example.com", "/", head=Asking({b"x-canary": b"1"})) == "canary"
    assert found(table, "a.example.com", "/") == "any"


def test_the_head_is_not_touched_without_conditions() -> None:
    table = router(route("root"), route("a", prefix="/a"), route("h", "h.example.com"), route("r", regex="^/r"))
    for host, path in (("", "/x"), ("", "/a/b"), ("h.example.com", "/a")):
        assert found(table, host, path, head=Untouchable()) is not None


def test_no_route() -> None:
    assert found(router(), "a.example.com", "/") is None
    assert found(router(route("a", "a.example.com")), "b.example.com", "/") is None


def test_only_the_routes_of_the_listener() -> None:
    routes = (route("all"), route("web", prefix="/web", listeners=("web",)),
              route("other", prefix="/other", listeners=("other",)))
    config = model.Config(listeners={}, routes=routes)
    assert [r.name for r in build_router(config, "web").routes] == ["all", "web"]
    assert found(build_router(config, "other"), "", "/other/x") == "other"


# ---- against a plain reading of the rules

def host_fits(pattern: str, host: str) -> tuple[int, int] | None:
    """How specific a pattern is for a host, least is best; None: does not fit."""
    if not pattern:
        return 3, 0
    if pattern.startswith("**."):
        suffix = pattern[2:]
        return (2, -len(suffix)) if host.endswith(suffix) and len(host) > len(suffix) else None
    if pattern.startswith("*."):
        head, _, tail = host.partition(".")
        return (1, 0) if head and tail == pattern[2:] else None
    return (0, 0) if host == pattern else None


def path_fits(match: model.PathMatch, path: str) -> bool:
    if match.kind == "exact":
        return path == match.value
    if match.kind == "regex":
        return re.search(match.value, path) is not None
    wanted = match.value.rstrip("/").split("/")
    return path.split("/")[:len(wanted)] == wanted


def conditions_fit(entry: model.Route, method: str, head: Asking) -> bool:
    parameters: dict[str, str] = {}
    for pair in filter(None, head.query.split("&")):
        name, _, value = pair.partition("=")
        parameters.setdefault(unquote_plus(name), unquote_plus(value))
    return ((not entry.methods or method in entry.methods)
            and all(head.get(name.encode()) == value.encode() for name, value in entry.headers)
            and all(parameters.get(name) == value for name, value in entry.query))


def reference(routes: list[model.Route], host: str, path: str, method: str, head: Asking) -> str | None:
    best: tuple[tuple[object, ...], str] | None = None
    for place, entry in enumerate(routes):
        for pattern in entry.host or ("",):
            fit = host_fits(pattern, host)
            if fit is None or not path_fits(entry.path, path) or not conditions_fit(entry, method, head):
                continue
            kind = {"exact": 0, "prefix": 1, "regex": 2}[entry.path.kind]
            by_path = -len(entry.path.value.rstrip("/")) if kind == 1 else 0
            if kind == 2:  # of the same expression for the same host the first one's place counts
                by_path = next(i for i, e in enumerate(routes) if e.path == entry.path and pattern in (e.host or ("",)))
            rank = (fit, kind, by_path, not entry.methods, -len(entry.headers), -len(entry.query), place)
            if best is None or rank < best[0]:
                best = rank, entry.name
    return best and best[1]


LABELS = ("a", "b", "com")
HOSTS = st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(st.sampled_from(("", "*.", "**.")), HOSTS).map("".join)
ELEMENTS = st.lists(st.sampled_from(("a", "b", "bb", "")), max_size=4)
PATHS = ELEMENTS.map(lambda parts: "/" + "/".join(parts))
MATCHES = st.one_of(
    PATHS.map(lambda value: model.PathMatch("prefix", "/" + value.strip("/"))),
    PATHS.map(lambda value: model.PathMatch("prefix", "/" + value.strip("/") + "/" * bool(value.strip("/")))),
    PATHS.map(lambda value: model.PathMatch("exact", value)),
    st.sampled_from(("^/a", "b$", "/bb/", "^/(a|b)/")).map(lambda value: model.PathMatch("regex", value)))
NAMES = st.lists(st.sampled_from("xy"), unique=True, max_size=2)
VALUES = st.sampled_from("12")
PAIRS = NAMES.flatmap(lambda names: st.tuples(*(st.tuples(st.just(name), VALUES) for name in names)))
METHODS = st.sampled_from(((), (), ("GET",), ("GET", "PUT"), ("PUT",)))
ROUTES = st.lists(st.builds(model.Route, name=st.just(""), host=st.lists(PATTERNS, max_size=2).map(tuple), path=MATCHES,
                            methods=METHODS, headers=PAIRS, query=PAIRS, service=st.just(TO_SERVICE)), max_size=12)
REQUESTS = st.tuples(
    st.one_of(st.just(""), HOSTS), PATHS, st.sampled_from(("GET", "PUT", "POST")),
    st.builds(lambda fields, query: Asking({n.encode(): v.encode() for n, v in fields},
                                           "&".join(f"{n}={v}" for n, v in query)),
              PAIRS, st.lists(st.tuples(st.sampled_from("xy"), VALUES), max_size=3)))


@settings(max_examples=250)
@given(ROUTES, st.lists(REQUESTS, min_size=1, max_size=8))
def test_find_agrees_with_the_plain_reading(unnamed: list[model.Route],
                                            requests: list[tuple[str, str, str, Asking]]) -> None:
    routes = [model.Route(str(i), r.host, r.path, r.methods, r.headers, r.query, service=TO_SERVICE)
              for i, r in enumerate(unnamed)]
    table = router(*routes)
    for host, path, method, head in requests:
        expected = reference(routes, host, path, method, head)
        assert found(table, host, path, method, head) == expected
        explanation = table.explain(host, path, method, head)
        assert (explanation.winner and explanation.winner.name) == expected
        assert [c.route.name for c in explanation.considered if c.verdict == "chosen"] == [expected] * bool(expected)
        assert len(explanation.considered) == sum(len(set(r.host)) or 1 for r in routes)


def test_find_agrees_with_the_plain_reading_on_large_tables() -> None:
    rng = random.Random(7)
    names = [".".join(rng.choice("abcd") for _ in range(rng.randint(1, 4))) for _ in range(60)]
    paths = ["/" + "/".join(rng.choice("abc") for _ in range(rng.randint(0, 5))) for _ in range(60)]
    routes = []
    for i in range(400):
        host = rng.choice(("", "*.", "**.")) + rng.choice(names)
        kind = rng.choice(("prefix", "prefix", "exact"))
        path = rng.choice(paths)
        methods = ("GET",) if rng.random() < 0.3 else ()
        routes.append(route(str(i), *([host] if rng.random() < 0.9 else []), methods=methods,
                            prefix=path if kind == "prefix" else None, exact=path if kind == "exact" else None))
    table = router(*routes)
    hits = 0
    for _ in range(1500):
        request = rng.choice(names), rng.choice(paths), rng.choice(("GET", "PUT")), Asking()
        expected = reference(routes, *request)
        hits += expected is not None
        assert found(table, *request) == expected
    assert hits > 500
