"""`edgeproxy proxy --from … --to …`: a configuration made of two options."""
from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from edgeproxy.config import addresses
from edgeproxy.config.model import (
    AccessLog,
    Config,
    EndpointAddress,
    Listener,
    Rewrite,
    Route,
    Service,
    ServiceTls,
    WeightedService,
)


def one_line_config(listen: str, to: Sequence[str],
                    log: Literal["combined", "json", "off"]) -> tuple[Config, list[str]]:
    """The configuration, and a line for each name that was resolved.

    Raises ValueError for an address that is not one, OSError for a name that does not resolve.
    """
    try:
        bind = addresses.bind(f":{listen}" if listen.isdigit() else listen)
    except ValueError as error:
        raise ValueError(f"--from: {error}") from None
    endpoints: dict[str, EndpointAddress] = {}
    lines: list[str] = []
    name = _encrypted(to)
    for text in to:
        found = resolve(text)
        if found[0].address != text:
            backups = ", ".join(e.address for e in found[1:])
            lines.append(f"{text} is {found[0].address}" + (f", backup {backups}" if backups else ""))
        for endpoint in found:
            if endpoint.address not in endpoints or not endpoint.backup:
                endpoints[endpoint.address] = endpoint
    service = Service("upstream", tuple(endpoints.values()))
    route = Route("proxy", service=(WeightedService("upstream"),))
    if name is not None:
        service = replace(service, protocol="https", tls=ServiceTls(server_name=name or None))
        if name:  # who speaks https is mostly one of many names on a machine
            route = replace(route, rewrite=Rewrite(host=name))
            lines.append(f"requests go on with Host: {name}")
    return Config({"proxy": Listener("proxy", (bind,), "http")}, (route,), {"upstream": service},
                  access_log=AccessLog(format=log)), lines


def _encrypted(to: Sequence[str]) -> str | None:
    """The name that is asked for and checked if the backends are https; "" for addresses, None without https."""
    names: set[str | None] = set()
    for text in to:
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() != "https":
            names.add(None)
        elif rest.startswith("unix:"):
            raise ValueError(f"--to {text}: a unix socket has no name to check in a certificate; write a file for that")
        else:
            host, _ = _host_and_port(text, rest, 443)
            names.add("" if _is_address(host) else host)
    if len(names) > 1:
        raise ValueError("--to: all are https with one and the same name, or none is")
    return names.pop()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def resolve(text: str) -> list[EndpointAddress]:
    """The addresses of one --to: the first serves, the others of the same name are its backups."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise ValueError(f"--to {text}: {scheme} is not spoken; http://, https:// and plain addresses are")
    if not separator:
        rest = text
    if rest.startswith("unix:"):
        return [_checked(text, rest)]
    host, port = _host_and_port(text, rest, 443 if scheme.lower() == "https" else 80)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise OSError(f"--to {text}: {host} does not resolve: {reason}") from None
    found = dict.fromkeys(str(answer[4][0]) for answer in answers if "%" not in str(answer[4][0]))
    if not found:
        raise OSError(f"--to {text}: {host} has no address that can be used")
    return [EndpointAddress(address, port, backup=place > 0) for place, address in enumerate(found)]


def _checked(text: str, address: str) -> EndpointAddress:
    try:
        return addresses.endpoint(address)
    except ValueError as error:
        raise ValueError(f"--to {text}: {error}") from None


def _host_and_port(text: str, rest: str, default: int) -> tuple[str, int]:
    rest = rest.removesuffix("/")
    if any(char in rest for char in "/?#@ "):
        raise ValueError(f"--to {text}: only a host and a port can be given; paths are changed by a file with rewrite")
    if rest.isdigit():
        rest = f":{rest}"
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"--to {text}: not an address; write localhost:3000, 10.0.0.5:80 or [::1]:80") from None
    if port == 0 or not (host or port):
        raise ValueError(f"--to {text}: not an address; write localhost:3000, 10.0.0.5:80 or [::1]:80")
    return host or "localhost", default if port is None else port
