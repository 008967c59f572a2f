"""The command line: `edgeproxy -c conf.yaml` and its commands.

Rules of this file: what a user can cause ends in one plain line (a wrong file in all its errors) and an exit status,
never in a traceback; the data path is imported only by the commands that run it. Exit status: 0 ok, 1 failure, 2 usage,
78 bad configuration (EX_CONFIG), 3 drained by force, 130 interrupted.
"""
from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from edgeproxy import __version__

if TYPE_CHECKING:
    from edgeproxy.config.load import ConfigError, Loaded, Problem
    from edgeproxy.config.model import Config

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_CONFIG, EXIT_INTERRUPTED = 0, 1, 2, 78, 130
COMMANDS = ("cert", "check", "demo", "explain", "proxy", "schema", "version")
SEARCHED = ("edgeproxy.yaml", "/etc/edgeproxy/edgeproxy.yaml")

HELP = """\
edgeproxy: a reverse proxy for HTTP, HTTPS, TLS and TCP

usage:
  edgeproxy [-c FILE]...                 run with a configuration file, or a folder of *.yaml
  edgeproxy check [-c FILE]... [--json]  validate all that a start would, bind nothing (also: edgeproxy -t)
  edgeproxy explain [-c FILE]... [METHOD] URL [-H NAME:VALUE]... [--from IP] [--all] [--json]
                                         which certificate, route and endpoint a request would get, and why
  edgeproxy proxy --from ADDRESS --to ADDRESS [--to ADDRESS]... [--log combined|json|off]
                                         a reverse proxy for one service, without a file
  edgeproxy demo                         three tiny backends with listeners in front, and what to try
  edgeproxy cert self-signed --host NAME [--host NAME]... [--out FOLDER] [--days 365] [--force]
                                         a certificate to try https with
  edgeproxy schema                       the JSON Schema of the configuration, for editors
  edgeproxy version [--json]             versions and engines in use
  edgeproxy COMMAND --help               more on one command

examples:
  edgeproxy demo                                     see it work, without a file
  edgeproxy proxy --from :8080 --to localhost:3000   one backend, without a file
  edgeproxy -c conf.yaml                             run
  edgeproxy -t -c conf.yaml                          is the file right?
  edgeproxy explain -c conf.yaml https://a.example/x who would answer this request, and why

without -c: $EDGEPROXY_CONFIG, ./edgeproxy.yaml, /etc/edgeproxy/edgeproxy.yaml
signals: HUP reloads, TERM drains, INT stops, USR1 opens the logs again
exit status: 0 ok, 1 failure, 2 usage, 78 bad configuration, 3 drained by force
"""


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

    class Lines(logging.Formatter):
        converter = staticmethod(time.gmtime)
        default_time_format = "%Y-%m-%dT%H:%M:%S"
        default_msec_format = "%s.%03dZ"

        def format(self, record: logging.LogRecord) -> str:
            record.levelname = record.levelname.lower()
            return super().format(record)

    output = logging.StreamHandler()
    output.setFormatter(Lines("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    logging.raiseExceptions = False  # an error log that cannot be written is no reason to print a traceback into it


def serve(load: Callable[[], Config], announce: Callable[[str], None] = announce) -> int:
    from edgeproxy.runtime.proxy import run

    error_log()
    return run(load, announce)


# ---- commands

def run_command(args: argparse.Namespace) -> int:
    paths = config_paths(args.config)
    return serve(lambda: read_config(paths).config)


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
    if not config.certificates and not any(s.protocol in ("https", "h2") for s in config.services.values()):
        for listener in config.listeners.values():  # what knows TLS is not even imported for those who have none
            if listener.routed:
                build_router(config, listener.name)
        return warnings(config, loaded.places)
    from edgeproxy import handshakes
    from edgeproxy.snapshot import compile_rules

    more = handshakes.doubts(config, compile_rules(config).tls)
    return warnings(config, loaded.places, time.time(), more)


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
    import time

    from edgeproxy import explain

    if len(args.request) > 2:
        raise Failure("explain: give a method and a URL, or a URL alone", EXIT_USAGE)
    *method, url = args.request
    try:
        question = explain.question(method[0] if method else "GET", url, args.header, args.client)
    except ValueError as error:
        raise Failure(f"explain: {error}", EXIT_USAGE) from None
    answer = explain.explain(read_config(config_paths(args.config)).config, question, time.time())
    if args.json:
        print_json(answer.as_json())
    else:
        for line in answer.as_text(None if args.all else 20):
            say(coloured(line, "1", sys.stdout) if line.startswith(("route ", "reply ")) else line)
    return EXIT_OK if answer.found else EXIT_FAILURE


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


# ---- arguments

class Parser(argparse.ArgumentParser):
    """Mistakes are one line and where to look; the program's own help is written by hand."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], COMMANDS, 1)
            message = f'unknown command "{unknown[1]}"' + (f', did you mean "{near[0]}"?' if near else "")
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(EXIT_USAGE)

    def format_help(self) -> str:
        return HELP if self.prog == "edgeproxy" else super().format_help()


def _parser() -> Parser:
    parser = Parser(prog="edgeproxy", allow_abbrev=False)
    _config_option(parser, "config")
    parser.add_argument("-t", "--test", action="store_true")
    parser.add_argument("--version", action="version", version=f"edgeproxy {__version__}")
    commands = parser.add_subparsers(prog="edgeproxy", metavar="COMMAND")
    parser.set_defaults(run=None, json=False, more_config=[])

    def command(name: str, run: Callable[[argparse.Namespace], int], does: str, more: str = "") -> Parser:
        made: Parser = commands.add_parser(name, description=f"{does}.{more}", allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    check = command("check", check_command, "Validate the configuration as a start would, bind nothing")
    _config_option(check, "more_config")
    _json_option(check)
    demo = command("demo", demo_command, "Run three tiny backends with listeners in front, and say what to try")
    demo.add_argument("--port", type=_port, default=8080, help="of the http listener, if it is free (8080)")
    demo.add_argument("--https-port", type=_port, default=8443, help="of the https listener, if it is free (8443)")
    demo.add_argument("--tcp-port", type=_port, default=9000, help="of the tcp listener, if it is free (9000)")
    _proxy_options(command("proxy", proxy_command, "Run a reverse proxy for one service, without a file",
                           " Names are resolved once, at the start."))
    explain: Parser = command("explain", explain_command, "Say which route and endpoint a request would get, and why")
    _config_option(explain, "more_config")
    explain.usage = "edgeproxy explain [-c FILE]... [METHOD] URL [-H NAME:VALUE]... [--from IP] [--all] [--json]"
    explain.add_argument("request", nargs="+", metavar="[METHOD] URL", help="such as http://a.example/x or POST URL")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="NAME:VALUE",
                         help="a field; repeatable")
    explain.add_argument("--from", dest="client", default="127.0.0.1", metavar="IP", help="client address (127.0.0.1)")
    explain.add_argument("--all", action="store_true", help="every losing route, not just the nearest")
    _json_option(explain)
    cert = command("cert", cert_command, "Make a self-signed certificate and its key, to try https with",
                   " Clients trust it only if told to: curl --cacert FILE, or curl -k.")
    _cert_options(cert)
    command("schema", schema_command, "Print the JSON Schema of the configuration, for editors")
    _json_option(command("version", version_command, "Print the versions and engines in use"))
    return parser


def _config_option(parser: Parser, dest: str) -> None:
    parser.add_argument("-c", "--config", dest=dest, action="append", default=[], metavar="FILE",
                        help="configuration file or folder of *.yaml; repeatable")


def _json_option(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for scripts")


def _proxy_options(proxy: Parser) -> None:
    proxy.add_argument("--from", dest="listen", required=True, metavar="ADDRESS",
                       help="where to listen: :8080, 127.0.0.1:8080, [::1]:8080, unix:/run/e.sock")
    proxy.add_argument("--to", action="append", required=True, metavar="ADDRESS",
                       help="backend: localhost:3000, 10.0.0.5:80, unix:/run/app.sock; several share the work")
    proxy.add_argument("--log", choices=("combined", "json", "off"), default="combined", help="access log (combined)")


def _cert_options(cert: Parser) -> None:
    cert.add_argument("kind", choices=("self-signed",), help="the only kind there is")
    cert.add_argument("--host", action="append", required=True, metavar="NAME",
                      help="a.example, '*.b.example' or an address; repeatable; the files are called after the first")
    cert.add_argument("--out", default=".", metavar="FOLDER", help="where to (this folder); made if it is not there")
    cert.add_argument("--days", type=_days, default=365, help="how long it is good for (365)")
    cert.add_argument("--force", action="store_true", help="overwrite the files")
    _json_option(cert)


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 3650):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to 3650")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


# ---- main

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
