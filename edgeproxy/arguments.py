"""What may stand on the command line, and the program's own help.

Rules: only the standard library is imported, a mistake is one line, and the commands themselves are in `cli.py`.
"""
from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from edgeproxy import __version__

EXIT_USAGE = 2
COMMANDS = ("cert", "check", "demo", "endpoint", "explain", "proxy", "schema", "status", "version")
Command = Callable[[argparse.Namespace], int]

HELP = """\
edgeproxy: a reverse proxy for HTTP, HTTPS, TLS and TCP

usage:
  edgeproxy [-c FILE]...                 run with a configuration file, or a folder of *.yaml
  edgeproxy check [-c FILE]... [--json]  validate all that a start would, bind nothing (also: edgeproxy -t)
  edgeproxy explain [-c FILE]... [METHOD] URL [-H NAME:VALUE]... [--from IP] [--live] [--all] [--json]
                                         which certificate, route and endpoint a request would get, and why
  edgeproxy status [-c FILE]... [SERVICE] [--json]
                                         how the running proxy and its endpoints are
  edgeproxy endpoint drain|disable|enable SERVICE ADDRESS [-c FILE]...
                                         take an endpoint out of the running proxy, or back in
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
  edgeproxy status | grep down                       which endpoints are down, since when, and why

without -c: $EDGEPROXY_CONFIG, ./edgeproxy.yaml, /etc/edgeproxy/edgeproxy.yaml
signals: HUP reloads, TERM drains, INT stops, USR1 opens the logs again
exit status: 0 ok, 1 failure, 2 usage, 78 bad configuration, 3 drained by force
"""


class Parser(argparse.ArgumentParser):
    """Mistakes are one line and where to look; the program's own help is written by hand."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], COMMANDS, 1)
            message = f'unknown command "{unknown[1]}"' + (f', did you mean "{near[0]}"?' if near else "")
        print(f"edgeproxy: {message} (see {self.prog} --help)", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USAGE)

    def format_help(self) -> str:
        return HELP if self.prog == "edgeproxy" else super().format_help()


def build_parser(run: Mapping[str, Command]) -> Parser:
    """`run`: what each of COMMANDS does."""
    parser = Parser(prog="edgeproxy", allow_abbrev=False)
    _config_option(parser, "config")
    parser.add_argument("-t", "--test", action="store_true")
    parser.add_argument("--version", action="version", version=f"edgeproxy {__version__}")
    commands = parser.add_subparsers(prog="edgeproxy", metavar="COMMAND")
    parser.set_defaults(run=None, json=False, more_config=[])

    def command(name: str, does: str, more: str = "") -> Parser:
        made: Parser = commands.add_parser(name, description=f"{does}.{more}", allow_abbrev=False)
        made.set_defaults(run=run[name])
        return made

    check = command("check", "Validate the configuration as a start would, bind nothing")
    _config_option(check, "more_config")
    _json_option(check)
    demo = command("demo", "Run three tiny backends with listeners in front, and say what to try")
    demo.add_argument("--port", type=_port, default=8080, help="of the http listener, if it is free (8080)")
    demo.add_argument("--https-port", type=_port, default=8443, help="of the https listener, if it is free (8443)")
    demo.add_argument("--tcp-port", type=_port, default=9000, help="of the tcp listener, if it is free (9000)")
    _proxy_options(command("proxy", "Run a reverse proxy for one service, without a file",
                           " Names are resolved once, at the start."))
    _explain_options(command("explain", "Say which route and endpoint a request would get, and why"))
    _status_options(command("status", "Say how the running proxy and its endpoints are"))
    _endpoint_options(command("endpoint", "Take an endpoint out of the running proxy, or back in",
                              " drain: no new work, but who is bound to it stays; disable: nobody; enable: as before."
                              " It lasts until the proxy ends."))
    cert = command("cert", "Make a self-signed certificate and its key, to try https with",
                   " Clients trust it only if told to: curl --cacert FILE, or curl -k.")
    _cert_options(cert)
    command("schema", "Print the JSON Schema of the configuration, for editors")
    _json_option(command("version", "Print the versions and engines in use"))
    return parser


def _explain_options(explain: Parser) -> None:
    _config_option(explain, "more_config")
    explain.usage = ("edgeproxy explain [-c FILE]... [METHOD] URL [-H NAME:VALUE]... [--from IP] [--live] [--all] "
                     "[--json]")
    explain.add_argument("request", nargs="+", metavar="[METHOD] URL", help="such as http://a.example/x or POST URL")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="NAME:VALUE",
                         help="a field; repeatable")
    explain.add_argument("--from", dest="client", default="127.0.0.1", metavar="IP", help="client address (127.0.0.1)")
    explain.add_argument("--live", action="store_true", help="ask the running proxy, with its endpoints as they are")
    explain.add_argument("--all", action="store_true", help="every losing route, not just the nearest")
    _json_option(explain)


def _status_options(status: Parser) -> None:
    _config_option(status, "more_config")
    status.add_argument("service", nargs="?", default="", metavar="SERVICE", help="only this one")
    _json_option(status)


def _endpoint_options(endpoint: Parser) -> None:
    _config_option(endpoint, "more_config")
    endpoint.add_argument("action", choices=("drain", "disable", "enable"), help="what to do")
    endpoint.add_argument("service", metavar="SERVICE", help="its service")
    endpoint.add_argument("address", metavar="ADDRESS", help="as `edgeproxy status` shows it: 10.0.0.5:80")
    _json_option(endpoint)


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
