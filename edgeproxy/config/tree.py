"""The shapes of the configuration, made from the dataclasses of `model.py`: types, defaults and marks decide.

Only the few short forms that a type cannot say (a path in one word, an endpoint in one word, `balance: {hash: …}`) are
written out here.
"""
from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from edgeproxy.config import model
from edgeproxy.config.forms import scalar_form
from edgeproxy.config.model import Form, Key, OneOrList, Only
from edgeproxy.config.shapes import (
    Choice,
    Entries,
    ListOf,
    MapOf,
    Misfit,
    Named,
    OneKey,
    Pairs,
    Part,
    Scalar,
    Shape,
    ShortOr,
)


@cache
def shape_of(kind: type) -> Shape:
    """The shape of a dataclass of the model."""
    return _SPECIAL[kind]() if kind in _SPECIAL else map_of(kind)


@cache
def map_of(kind: type) -> MapOf:
    return MapOf(kind, partial(_parts, kind), whole=kind in (model.Health, model.Resolver), instead=_INSTEAD.get(kind))


@cache
def root() -> MapOf:
    return map_of(model.Config)


def _parts(kind: Any, only: tuple[str, ...] = ()) -> Iterator[Part]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name == "name" and kind in (model.Listener, model.Service):
            continue  # the key of the map they are in
        if field.name == "certificates" and kind is model.Config:
            continue  # no key of the file: what was read from those that it names
        if only and field.name not in only:
            continue
        marks = _marks(hints[field.name])
        key = next((mark.word for mark in marks if isinstance(mark, Key)), field.name)
        protocols = next((mark.protocols for mark in marks if isinstance(mark, Only)), ())
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING and not (kind is model.Route and field.name == "name")
        may_be_empty = kind is model.Service and field.name == "endpoints"
        shape = _shape(hints[field.name], may_be_empty)
        yield Part(key, field.name, shape, required, None if default is dataclasses.MISSING else default, protocols)


def _marks(hint: Any) -> tuple[Any, ...]:
    return tuple(hint.__metadata__) if get_origin(hint) is Annotated else ()


def _shape(hint: Any, may_be_empty: bool = False) -> Shape:
    marks = _marks(hint)
    bare = hint.__origin__ if marks else hint
    form = next((mark for mark in marks if isinstance(mark, Form)), None)
    origin, arguments = get_origin(bare), get_args(bare)
    if form is not None and bare == tuple[tuple[str, str], ...]:
        return _pairs(form)
    if form is not None:
        return Scalar(scalar_form(form.word, form.low, form.high))
    if origin in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        return _shape(kinds[0], may_be_empty)
    if origin is tuple:
        alone = next((mark for mark in marks if isinstance(mark, OneOrList)), None)
        if arguments[0] is model.Route:
            return Entries(map_of(model.Route))
        return ListOf(_shape(arguments[0]), alone is not None, may_be_empty, alone.empty if alone else "")
    if origin is dict:
        return Named(map_of(arguments[1]))
    if origin is Literal:
        return Choice(arguments)
    if dataclasses.is_dataclass(bare) and isinstance(bare, type):
        return shape_of(bare)
    raise TypeError(f"no shape for {hint}")  # a field of the model without a Form


def _pairs(form: Form) -> Pairs:
    name = scalar_form(form.word, 0, 0)
    if form.word == "line":
        return Pairs(name, name, folded=False)
    if form.word == "sni-pattern":
        return Pairs(name, scalar_form("name", 0, 0), folded=True)
    return Pairs(name, scalar_form("value", 0, 0), folded=True)


def _scalar(word: str) -> Scalar:
    return Scalar(scalar_form(word, 0, 0))


def _path_match() -> Shape:
    kinds = {"exact": _scalar("path"), "prefix": _scalar("prefix"), "regex": _scalar("regex")}

    def match(kind: Any, value: str) -> model.PathMatch:
        return model.PathMatch(kind, value)

    return ShortOr(kinds["prefix"], partial(match, "prefix"), OneKey(kinds, match))


def _weighted_service() -> Shape:
    return ShortOr(_scalar("name"), model.WeightedService, map_of(model.WeightedService))


def _endpoint() -> Shape:
    """Host, port and path of the model come from one key: `{address: "10.0.0.5:80", weight: 2, backup: true}`."""
    def parts() -> Iterator[Part]:
        yield Part("address", "address", _scalar("endpoint"), required=True)
        yield from _parts(model.EndpointAddress, ("weight", "backup"))

    def build(address: model.EndpointAddress, weight: int = 1, backup: bool = False) -> model.EndpointAddress:
        return dataclasses.replace(address, weight=weight, backup=backup)

    full = MapOf(model.EndpointAddress, parts, build)
    return ShortOr(_scalar("endpoint"), lambda address: address, full)


def _dns_source() -> Shape:
    """`"name:port"`, or a map whose `name` may have the port too."""
    def parts() -> Iterator[Part]:
        yield Part("name", "name", _scalar("dns-name"), required=True)
        yield from _parts(model.DnsSource, ("port", "type", "family", "refresh", "on_empty"))

    def build(name: model.DnsSource, **more: Any) -> model.DnsSource:
        if name.port is not None and more.get("port", name.port) != name.port:
            raise Misfit("port", f"the name says port {name.port}; leave out one of the two")
        return dataclasses.replace(name, **more)

    return ShortOr(_scalar("dns-name"), lambda source: source, MapOf(model.DnsSource, parts, build, whole=True))


def _affinity() -> Shape:
    kinds = {"client_ip": map_of(model.ClientIp), "cookie": map_of(model.AffinityCookie)}
    return OneKey(kinds, lambda key, value: model.Affinity(**{key: value}),
                  lambda text: f"{{{text}: {{}}}}" if text in kinds else "")


def _balance() -> Shape:
    kinds = tuple(kind for kind in get_args(model.BalanceKind) if kind != "hash")
    by_name = OneKey({"header": _scalar("field"), "cookie": _scalar("cookie-name"), "query": _scalar("line")},
                     partial(model.Balance, "hash"))
    by = ShortOr(Choice(("path",), f", or {by_name.words}"), partial(model.Balance, "hash"), by_name)
    full = OneKey({"hash": by, "source-hash": map_of(model.SourceHash)}, _balance_with)
    return ShortOr(Choice(kinds, f", or {full.words}"), model.Balance, full)


def _balance_with(key: str, value: Any) -> model.Balance:
    return value if key == "hash" else model.Balance("source-hash", ipv6_prefix=value.ipv6_prefix)


def _probe_by(text: str) -> str:
    return "{http: {path: /healthz}}" if text == "http" else f"{{{text}: {{}}}}" if text in ("tcp", "grpc") else ""


def _path_of_probe(text: str) -> str:
    return f"{{path: {text}}}" if re.fullmatch(r"/[!-~]*", text) else ""


_INSTEAD: dict[type, Callable[[str], str]] = {model.Health: _probe_by, model.HttpProbe: _path_of_probe}
"""What was meant by one value in place of a map."""

_SPECIAL: dict[type, Callable[[], Shape]] = {
    model.PathMatch: _path_match,
    model.WeightedService: _weighted_service,
    model.EndpointAddress: _endpoint,
    model.Balance: _balance,
    model.DnsSource: _dns_source,
    model.Affinity: _affinity,
}
