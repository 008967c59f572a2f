"""The command line: `edgeproxy -c conf.yaml` and its commands.

Rules of this file: what a user can cause ends in one plain line (a wrong file in all its errors) and an exit status,
never in a traceback; the data path is imported only by the commands that run it. Exit status: 0 ok, 1 failure, 2 usage,
78 bad configuration (EX_CONFIG), 3 drained by force, 130 interrupted.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from edgeproxy.arguments import COMMANDS, EXIT_USAGE, HELP, Parser, build_parser

if TYPE_CHECKING:
    from edgeproxy.adminclient import Remote
    from edgeproxy.config.load import ConfigError, Loaded, Problem
    from edgeproxy.config.model import Bind, Config
    from edgeproxy.explaintext import Question
    from edgeproxy.runtime.admin import Place
    from edgeproxy.runtime.status import Running

__all__ = ["COMMANDS", "HELP", "main"]

EXIT_OK, EXIT_FAILURE, EXIT_CONFIG, EXIT_INTERRUPTED = 0, 1, 78, 130
SEARCHED = ("edgeproxy.yaml", "/etc/edgeproxy/edgeproxy.yaml")


class Failure(Exception):
    """Ends a command with one line and a status."""

    def __init__(self, message: str, status: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.status = status


# ---- output

def coloured(text: str, code: str, stream: TextIO | None) -> str:
    """`text` in a colour if the stream is a terminal that wants some."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or stream is None or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def say(line: str = "") -> None:
    print(line, flush=True)


def complain(line: str) -> None:
    """One line on standard error."""
    print(f"edgeproxy: {line}", file=sys.stderr, flush=True)


def announce(line: str) -> None:
    """What runs is told on standard error: standard output belongs to the access log."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    say(json.dumps(value, indent=2))


# ---- configuration

def config_paths(named: Sequence[str]) -> list[str]:
    """What -c named, or the first file of the search path. Raises Failure (2) with the places when there is none."""
    if named:
        return list(named)
    variable = os.environ.get("EDGEPROXY_CONFIG")
    if variable:
        return [variable]
    for path in SEARCHED:
        if os.path.lexists(path):
            return [path]
    raise Failure("no configuration: $EDGEPROXY_CONFIG is not set, and there is neither ./edgeproxy.yaml nor "
                  "/etc/edgeproxy/edgeproxy.yaml\n"
                  "  edgeproxy -c conf.yaml                             to run with a file\n"
                  "  edgeproxy demo                                     to see it work without one\n"
                  "  edgeproxy proxy --from :8080 --to localhost:3000   for one backend, without a file", EXIT_USAGE)


def read_config(paths: Sequence[str]) -> Loaded:
    """Read the files and look at what they name. Raises ConfigError."""
    import time

    from edgeproxy.config.load import ConfigError, Problem, read
    from edgeproxy.runtime.accesslog import unwritable

    loaded = read(paths, now=time.time())
    log = loaded.config.access_log
    fault = unwritable(log.path) if log.format != "off" else None
    if fault is not None:
        raise ConfigError([Problem("", 0, 0, f"access_log: {log.path}: {fault}")])
    return loaded


def complain_about(error: ConfigError) -> None:
    """All errors, and how many; a fault of a whole file is one line."""
    if [problem.line for problem in error.problems] == [0]:
        return complain(str(error))
    for line in str(error).splitlines():
        print(coloured(line, "31", sys.stderr) if line.strip() == "^" else line, file=sys.stderr)
    if len(error.problems) > 1:
        complain(f"{len(error.problems)} errors in the configuration")


def error_log() -> None:
    """Standard logging to standard error, one line each, in UTC."""
    import logging
    import time

    from edgeproxy.config.problem import printable

    class Lines(logging.Formatter):
        """What others chose stands in some messages, and in a trace: no terminal obeys any of it, and no text that is
        put into a message ends a line. The errors of a configuration (an exception), and a trace, keep their lines."""

        converter = staticmethod(time.gmtime)
        default_time_format = "%Y-%m-%dT%H:%M:%S"
        default_msec_format = "%s.%03dZ"

        def format(self, record: logging.LogRecord) -> str:
            record.levelname = record.levelname.lower()
            if isinstance(record.args, tuple):
                record.args = tuple(printable(part) if isinstance(part, str) else part for part in record.args)
            return "\n".join(map(printable, super().format(record).split("\n")))

    output = logging.StreamHandler()
    output.setFormatter(Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    logging.raiseExceptions = False  # an error log that cannot be written is no reason to print a traceback into it


def serve(load: Callable[[], Config], announce: Callable[[str], None] = announce, place: Place | None = None) -> int:
    from edgeproxy.runtime.proxy import run

    error_log()
    return run(load, announce, place)


# ---- commands

def run_command(args: argparse.Namespace) -> int:
    from edgeproxy.adminclient import socket_of
    from edgeproxy.runtime.admin import Place

    paths = config_paths(args.config)
    return serve(lambda: read_config(paths).config, place=Place(socket_of(paths), _explain_running))


async def _explain_running(running: Running, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """Imported when somebody asks, and not in the loop: that takes a while."""
    import asyncio
    from importlib import import_module

    explain = await asyncio.to_thread(import_module, "edgeproxy.explain")
    found: dict[str, Any] = await explain.explain_running(running, query)
    return found


def check_command(args: argparse.Namespace) -> int:
    from edgeproxy.config.load import ConfigError

    paths = config_paths(args.config)
    shown = " ".join(paths)
    try:
        loaded = read_config(paths)
        problems = doubts(loaded)
    except ConfigError as error:
        if not args.json:
            raise
        print_json({"ok": False, "files": paths, "errors": [_problem(p) for p in error.problems], "warnings": []})
        return EXIT_CONFIG
    config = loaded.config
    counts = {"listeners": len(config.listeners), "routes": len(config.routes), "services": len(config.services)}
    if args.json:
        print_json({"ok": True, "files": list(loaded.sources.files), "errors": [],
                    "warnings": [_problem(p) for p in problems], **counts})
        return EXIT_OK
    for problem in problems:
        print(coloured(str(problem), "33", sys.stderr), file=sys.stderr)
    parts = [f"{n} {word if n != 1 else word[:-1]}" for word, n in counts.items()]
    say(f"{shown}: ok ({', '.join(parts)}{_plural(len(problems), ', %d warning')})")
    return EXIT_OK


def doubts(loaded: Loaded) -> list[Problem]:
    """Compile as a start does, and give all warnings. Raises ConfigError for what only that finds."""
    import time

    from edgeproxy.config.check import warnings
    from edgeproxy.router import build_router

    config = loaded.config
    if config.admin is not None:
        _look_at_place(config.admin.bind)
    if not config.certificates and not any(s.encrypted for s in config.services.values()):
        for listener in config.listeners.values():  # what knows TLS is not even imported for those who have none
            if listener.routed:
                build_router(config, listener.name)
        return warnings(config, loaded.places)
    from edgeproxy import handshakes
    from edgeproxy.snapshot import compile_rules

    more = handshakes.doubts(config, compile_rules(config).tls)
    return warnings(config, loaded.places, time.time(), more)


def _look_at_place(bind: Bind) -> None:
    from edgeproxy.adminclient import unusable
    from edgeproxy.config.load import ConfigError, Problem

    fault = unusable(bind)
    if fault is not None:
        raise ConfigError([Problem("", 0, 0, f"admin: {bind}: {fault}")])


def _plural(count: int, text: str) -> str:
    return "" if not count else text % count + ("s" if count != 1 else "")


def _problem(problem: Any) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}


def demo_command(args: argparse.Namespace) -> int:
    from edgeproxy.demo import run_demo

    return run_demo({"http": args.port, "https": args.https_port, "tcp": args.tcp_port}, serve, say)


def proxy_command(args: argparse.Namespace) -> int:
    from edgeproxy.oneline import one_line_config

    try:
        config, lines = one_line_config(args.listen, args.to, args.log)
    except ValueError as error:
        raise Failure(f"proxy: {error}", EXIT_USAGE) from None
    except OSError as error:
        raise Failure(f"proxy: {error}") from None
    for line in lines:
        announce(line)
    return serve(lambda: config)


def explain_command(args: argparse.Namespace) -> int:
    from edgeproxy import explain

    if len(args.request) > 2:
        raise Failure("explain: give a method and a URL, or a URL alone", EXIT_USAGE)
    *method, url = args.request
    try:
        question = explain.question(method[0] if method else "GET", url, args.header, args.client)
    except ValueError as error:
        raise Failure(f"explain: {error}", EXIT_USAGE) from None
    report, lines = (_explained_live if args.live else _explained)(args, question)
    if args.json:
        print_json(report)
    else:
        for line in lines:
            say(coloured(line, "1", sys.stdout) if line.startswith(("route ", "reply ")) else line)
    return EXIT_OK if report["found"] else EXIT_FAILURE


def _explained(args: argparse.Namespace, question: Question) -> tuple[dict[str, Any], list[str]]:
    """What the files say: for scripts, and for people."""
    import time

    from edgeproxy import explain

    config = read_config(config_paths(args.config)).config
    answer = explain.explain(config, question, time.time(), explain.asked_now(config.resolver))
    return answer.as_json(), list(answer.as_text(None if args.all else 20))


def _explained_live(args: argparse.Namespace, question: Question) -> tuple[dict[str, Any], list[str]]:
    """What the running proxy says."""
    asked = {"method": question.method, "url": question.url, "from": question.client, "header": args.header}
    if args.all:
        asked["all"] = "1"
    report = remote(args).get("/api/v1/explain", asked)
    return report, report.pop("text")


def status_command(args: argparse.Namespace) -> int:
    import shutil

    from edgeproxy.statustext import lines

    report = remote(args).get("/api/v1/status", {"service": args.service} if args.service else None)
    if args.json:
        print_json(report)
        return EXIT_OK
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(report, width, lambda text, code: coloured(text, code, sys.stdout)):
        print(line)
    return EXIT_OK


def endpoint_command(args: argparse.Namespace) -> int:
    report = remote(args).post("/api/v1/endpoints", {"service": args.service, "address": args.address,
                                                     "action": args.action})
    if args.json:
        print_json(report)
        return EXIT_OK
    why = f" ({report['reason']})" if report["reason"] else ""
    alone = "" if report["others_ready"] or report["ready"] else "; no other endpoint of the service is ready"
    say(f"{args.service} {args.address} is {report['state']}{why}, {report['active']} in flight{alone}")
    return EXIT_OK


def remote(args: argparse.Namespace) -> Remote:
    """The proxy that runs with the files of the command line. Raises Unanswered."""
    from edgeproxy.adminclient import find
    from edgeproxy.config.load import ConfigError, load

    paths = config_paths(args.config)

    def configured() -> Bind | None:
        try:
            admin = load(paths).admin
        except ConfigError:  # the proxy may run all the same, with what the file was before
            return None
        return admin.bind if admin is not None else None

    return find(paths, configured)


def cert_command(args: argparse.Namespace) -> int:
    import time

    from edgeproxy import selfsigned

    try:
        hosts = list(dict.fromkeys(selfsigned.host(text) for text in args.host))
    except ValueError as error:
        raise Failure(f"cert self-signed: --host: {error}", EXIT_USAGE) from None
    files = selfsigned.write(args.out, hosts, args.days, time.time(), args.force)
    if args.json:
        print_json({"cert": str(files.cert), "key": str(files.key), "hosts": hosts, "days": args.days})
        return EXIT_OK
    say(f"cert  {files.cert}  ({', '.join(hosts)}; {args.days} days)")
    say(f"key   {files.key}")
    say("in a listener:")
    for line in selfsigned.yaml_lines(files, hosts):
        say(f"    {line}")
    return EXIT_OK


def schema_command(args: argparse.Namespace) -> int:
    from edgeproxy.config.schema import json_schema

    print_json(json_schema())
    return EXIT_OK


def version_command(args: argparse.Namespace) -> int:
    from edgeproxy.versions import facts, lines

    if args.json:
        print_json(facts())
        return EXIT_OK
    for line in lines():
        say(line)
    return EXIT_OK


# ---- main

def _parser() -> Parser:
    return build_parser({"cert": cert_command, "check": check_command, "demo": demo_command,
                         "endpoint": endpoint_command, "explain": explain_command, "proxy": proxy_command,
                         "schema": schema_command, "status": status_command, "version": version_command})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status. argparse alone raises SystemExit (help, usage)."""
    _standard_streams()
    try:
        status = _command(_arguments(argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has left (`edgeproxy schema | head`). Python flushes again at exit: into what takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        return _failed(error)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if args.run is explain_command and not any(text.startswith("-") for text in rest):
        args.request += rest  # `GET -H a:b URL`: argparse wants what belongs together side by side
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.config = args.config + args.more_config
    return args


def _command(args: argparse.Namespace) -> int:
    command = args.run or (check_command if args.test else run_command)
    return int(command(args))


def _failed(error: Exception) -> int:
    if isinstance(error, Failure):
        complain(str(error))
        return error.status
    if type(error).__name__ == "ConfigError":  # without importing the loader for those who need none
        complain_about(error)  # type: ignore[arg-type]
        return EXIT_CONFIG
    if isinstance(error, OSError):
        complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        return EXIT_FAILURE
    text = " ".join(str(error).split())
    complain(f"internal error: {type(error).__name__}: {text}, please report{_trace(error)}")
    return EXIT_FAILURE


def _trace(error: Exception) -> str:
    if not os.environ.get("EDGEPROXY_DEBUG"):
        return " (EDGEPROXY_DEBUG=1 keeps a trace)"
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="edgeproxy-trace-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return f" with {file.name}"


def _standard_streams() -> None:
    """Descriptors 0 to 2 exist and can print anything.

    Of a process started with one of them closed the first socket would get its number, and the log would go there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
