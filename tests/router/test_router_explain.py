"""`explain` names every route and what became of it, in the order of preference."""
from __future__ import annotations

from edgeproxy.config import model
from edgeproxy.router import build_router


class Head:
    query = "debug=0"

    def get(self, name: bytes, /) -> bytes | None:
        return {b"x-canary": b"0"}.get(name)


def route(name: str, host: str = "", path: str = "/", kind: str = "prefix", **more: object) -> model.Route:
    return model.Route(name, host=(host,) if host else (), path=model.PathMatch(kind, path),  # type: ignore[arg-type]
                       service=(model.WeightedService("app"),), **more)  # type: ignore[arg-type]


CONFIG = model.Config(listeners={}, routes=(
    route("any"),
    route("other host", "b.example.com"),
    route("other path", "a.example.com", "/web"),
    route("no canary", "a.example.com", "/api", headers=(("x-canary", "1"),)),
    route("no post", "a.example.com", "/api/v1", "exact", methods=("POST",)),
    route("no debug", "*.example.com", "/api", query=(("debug", "1"),)),
    route("regex", "*.example.com", "^/api/v[0-9]$", "regex"),
    route("later regex", "*.example.com", "v", "regex"),
))


def test_every_route_and_what_became_of_it() -> None:
    winner, considered = build_router(CONFIG, "web").explain("a.example.com", "/api/v1", "GET", Head())
    assert winner is not None and winner.name == "regex"
    assert [(c.route.name, c.host, c.verdict) for c in considered] == [
        ("no post", "a.example.com", "method"),
        ("no canary", "a.example.com", "header"),
        ("no debug", "*.example.com", "query"),
        ("regex", "*.example.com", "chosen"),
        ("later regex", "*.example.com", "less specific"),
        ("any", "", "less specific"),
        ("other path", "a.example.com", "path"),
        ("other host", "b.example.com", "host"),
    ]


def test_nothing_fits() -> None:
    config = model.Config(listeners={}, routes=(route("x", "x.example.com"), route("y", "", "/y")))
    winner, considered = build_router(config, "web").explain("a.example.com", "/", "GET", Head())
    assert winner is None
    assert [(c.route.name, c.verdict) for c in considered] == [("y", "path"), ("x", "host")]


def test_the_one_catch_all_route() -> None:
    winner, considered = build_router(model.Config(listeners={}, routes=(route("all"),)), "web").explain(
        "a.example.com", "/", "GET", Head())
    assert winner is not None and [(c.route, c.verdict) for c in considered] == [(winner, "chosen")]
