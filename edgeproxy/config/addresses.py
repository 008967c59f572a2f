"""Addresses, host names and paths as the configuration writes them.

Rules: text in, value out; `ValueError` holds a whole sentence for the user: what is wrong and what to write instead.
Names are never resolved here.
"""
from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from edgeproxy.config.model import Bind, DnsSource, EndpointAddress, ExternalName, Nameserver
from edgeproxy.config.problem import quoted

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9.]*")
"""What was meant to be an IPv4 address."""
_SOCKET_PATH = 107
"""Bytes in sockaddr_un, less the closing NUL."""
_PATH = re.compile(r"/[!-\"$->@-~]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def bind(text: str) -> Bind:
    if text.startswith("unix:"):
        return Bind(path=_socket_path(text))
    host, port = _host_and_port(text, f":{text}" if text.isdigit() else ":8080")
    if host == "*":
        raise ValueError(f'write {quoted(":" + port)} for every address')
    if host:
        host = _address(host, "names are not resolved; write an IP address, or nothing for every address")
    return Bind(host, _port(port, 0))


def endpoint(text: str) -> EndpointAddress:
    if text.startswith("unix:"):
        return EndpointAddress(path=_socket_path(text))
    _refuse_url(text, "an endpoint is an address, not a URL", "10.0.0.5:80")
    known = _is_address(text) or _is_host(text.lower().removesuffix("."))
    host, port = _host_and_port(text, f"{text}:80" if known and not text.isdigit() else "10.0.0.5:80")
    if not host:
        raise ValueError(f"the address is missing; write {quoted('127.0.0.1:' + port)} for this machine")
    if "/" in port:
        raise ValueError("an endpoint has no path; to change the path use rewrite in the route")
    if host.lower() == "localhost":
        host = "127.0.0.1"  # one endpoint, not a second one for ::1 where nothing listens
    return EndpointAddress(_destination(host), _port(port, 1))


def _destination(host: str) -> str:
    """An address that can be connected to, or a name."""
    if "%" in host:
        raise ValueError(f"{quoted(host)}: an address with a zone means something on one machine only; write another")
    if not _is_address(host) and not _NUMERIC.fullmatch(host):
        return dns_name(host)
    host = _address(host, "")
    if ip_address(host).is_unspecified:
        raise ValueError(f"{host} can be listened on but not connected to; write 127.0.0.1 for this machine")
    return host


def dns_name(text: str) -> str:
    """A name to resolve, in lower case; a final dot stays, it makes the name absolute."""
    if "/" in text:
        raise ValueError(f"{quoted(text)} is not a name that DNS knows; a path and a scheme are left out")
    if ":" in text:
        raise ValueError(f"{quoted(text)} is not a name that DNS knows; it has a : in it")
    name = text.lower()
    if not name.isascii():
        raise ValueError(f"{quoted(text)} is not ASCII{_punycode(name, 'DNS knows')}")
    if _NUMERIC.fullmatch(name):
        raise ValueError(f"{quoted(text)} is neither a name nor an IP address")
    if not _is_host(name.removesuffix(".")):
        raise ValueError(f"{quoted(text)} is not a name that DNS knows: letters, digits, - and _ between dots, at most "
                         "63 in a row and 253 in all")
    return name


def dns_source(text: str) -> DnsSource:
    """`name:port`, or a name alone."""
    _refuse_url(text, "a name to resolve is no URL", "web.dev.svc.cluster.local:8080")
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or _is_address(text):
        name, colon, port = text, "", ""
    if _is_address(name.strip("[]")):
        raise ValueError(f"{quoted(name)} is an address and needs no DNS; write it into endpoints")
    return DnsSource(dns_name(name), _port(port, 1) if colon else None)


def external_name(text: str) -> ExternalName:
    """`name` or `name:port`; an address is taken too."""
    _refuse_url(text, "an external name is no URL", "www.example.com:443")
    if text.startswith("unix:"):
        raise ValueError("an external name is the name of a host elsewhere; write a socket into endpoints")
    if text.startswith("[") and text.endswith("]") and ":" in text:
        return ExternalName(_destination(_address(text[1:-1], "")))
    if ":" not in text:
        return ExternalName(_destination(text))
    host, port = _host_and_port(text, "www.example.com:443")
    if not host:
        raise ValueError(f"the name is missing; write {quoted('www.example.com:' + port)}")
    if "/" in port:
        raise ValueError("an external name has no path; to change the path use rewrite in the route")
    return ExternalName(_destination(host), _port(port, 1))


def nameserver(text: str) -> Nameserver:
    """`address` or `address:port`."""
    if text == "system":
        raise ValueError("system goes into resolver, alone: nameservers: system, which is the default, too")
    bare = text.strip("[]") if text.startswith("[") == text.endswith("]") else text
    host, port = (bare, "53") if _is_address(bare) or ":" not in text else _host_and_port(text, "10.96.0.10:53")
    host = _address(host, "a nameserver is an IP address, since it is what names are asked of")
    if ip_address(host).is_unspecified:
        raise ValueError(f"{host} cannot be asked; write 127.0.0.1 for this machine")
    return Nameserver(host, _port(port, 1))


def network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wide = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a network; write 10.0.0.0/8, fd00::/8 or one address") from None
    raise ValueError(f"{quoted(text)} has bits set behind the mask, did you mean {quoted(str(wide))}?")


def host_pattern(text: str) -> str:
    """A host name in lower case without the final dot, or `*.` or `**.` and one."""
    if text in ("*", "**", ""):
        raise ValueError("leave host out to match any host")
    stars = "**." if text.startswith("**.") else "*." if text.startswith("*.") else ""
    if "*" in text[len(stars):]:
        raise ValueError("a * stands for whole labels at the beginning: "
                         '"*.example.com" (exactly one) or "**.example.com" (one or more)')
    return stars + host_name(text[len(stars):], not stars)


def sni_pattern(text: str) -> str:
    """A server name in lower case, `*.` and one, or `*`."""
    if text == "*":
        return text
    if text.startswith("**."):
        raise ValueError(f'a wildcard stands for one label; write {quoted(text[1:])}, or "*" for the rest')
    stars = "*." if text.startswith("*.") else ""
    if "*" in text[len(stars):]:
        raise ValueError('a * stands for the whole first label: "*.example.com", or "*" alone for the rest')
    if not stars and _is_address(text.strip("[]")):
        raise ValueError('clients send no server name for an address; "*" takes those that send none')
    return stars + host_name(text[len(stars):], False)


def host_name(text: str, or_address: bool = True) -> str:
    host = text.lower().removesuffix(".")
    if "/" in host:
        raise ValueError(f"{quoted(text)} is not a host name; a path belongs in path, a scheme is left out")
    if or_address and _is_address(host.strip("[]")):
        canonical = str(ip_address(host.strip("[]")))
        if host.startswith("[") != (":" in canonical):
            raise ValueError(f"an IPv6 address is in brackets, an IPv4 address is not: {quoted(text)}")
        return f"[{canonical}]" if ":" in canonical else canonical
    if ":" in host:
        raise ValueError(f"hosts are compared without the port; write {quoted(host.split(':')[0])}")
    if not host.isascii():
        raise ValueError(f"{quoted(text)} is not ASCII{_punycode(host, 'browsers send')}")
    if not _is_host(host):
        raise ValueError(f"{quoted(text)} is not a host name: letters, digits, - and _ between dots")
    return host


def authority(text: str) -> str:
    """A host name, perhaps with a port, as in a Host field."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return host_name(text)
    if ":" in host and not host.startswith("["):
        raise ValueError(f"an IPv6 address with a port is written [::1]:80, not {quoted(text)}")
    return f"{host_name(host)}:{_port(port, 1)}"


def path(text: str) -> str:
    """A path in the form requests are compared in: absolute, percent-encoded, without dot segments."""
    if not text.startswith("/"):
        raise ValueError(f"a path begins with /; write {quoted('/' + text)}")
    if "?" in text or "#" in text:
        raise ValueError("a path ends before ? and #; conditions on the query go into query")
    if not _PATH.fullmatch(text):
        wrong = next(char for char in text if not "!" <= char <= "~")
        encoded = "".join(f"%{byte:02X}" for byte in wrong.encode())
        raise ValueError(f"in a path {quoted(wrong)} is written {encoded}")
    if any(segment in (".", "..") for segment in text.split("/")):
        raise ValueError('"." and ".." are resolved before routes are compared; write the path without them')
    for escape in _ESCAPE.finditer(text):
        if not escape[1]:
            raise ValueError("a % in a path is followed by two hex digits; the sign itself is written %25")
        char = chr(int(escape[1], 16))
        if char in _UNRESERVED:
            raise ValueError(f"{escape[0]} is decoded before routes are compared; write {quoted(char)}")
    return _ESCAPE.sub(lambda escape: escape[0].upper(), text)


def prefix(text: str) -> str:
    """A path prefix; a final / makes no difference."""
    return path(text).rstrip("/") or "/"


def _host_and_port(text: str, example: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError(f"{quoted(text)} has no port; an IPv6 address with a port is written [::1]:80")
        if ":" not in host:
            raise ValueError(f"brackets are for IPv6 addresses; write {quoted(host + rest)}")
        return host, rest[1:]
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{quoted(text)} has no port; write {quoted(example)}")
    if ":" in host:
        raise ValueError(f"{quoted(text)}: an IPv6 address is in brackets, such as [::1]:80")
    return host, port


def _port(text: str, low: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and low <= int(text) <= 65535):
        raise ValueError(f"{quoted(text)} is not a port; ports are {low} to 65535")
    return int(text)


def _refuse_url(text: str, why: str, example: str) -> None:
    if "://" in text:
        rest = text.split("://", 1)[1].split("/", 1)[0]
        raise ValueError(f"{why}; write {quoted(rest or example)}")


def _is_host(host: str) -> bool:
    """Whether it is a host name, in lower case without the final dot (RFC 1035 §2.3.4)."""
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _address(host: str, advice: str) -> str:
    if host.lower() == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"{quoted(host)} is not an IP address: four numbers from 0 to 255, without leading zeros")
    if ":" in host:
        raise ValueError(f"{quoted(host)} is not an IPv6 address")
    raise ValueError(f"{quoted(host)} is a name: {advice}")


def _socket_path(text: str) -> str:
    where = text.removeprefix("unix:")
    if not where or "\0" in where:
        raise ValueError('the path of the socket is missing; write "unix:/run/app.sock"')
    if where.startswith("@"):
        raise ValueError("abstract sockets are not supported; write the path of a socket file")
    return check_socket_path(where)


def check_socket_path(where: str) -> str:
    if len(where.encode()) > _SOCKET_PATH:
        raise ValueError(f"the path of a unix socket has at most {_SOCKET_PATH} bytes")
    return where


def _punycode(host: str, who: str) -> str:
    try:
        return f"; {who} it as {quoted(host.encode('idna').decode('ascii'))}"
    except UnicodeError:
        return ""
