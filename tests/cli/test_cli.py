"""The command line with right and wrong input: exact text, exit status, never a traceback."""
from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import PROGRAM, edgeproxy, environment

import edgeproxy as package
from edgeproxy import cli

GOOD = """\
listeners: {web: {bind: "127.0.0.1:0", protocol: http}}
routes: [{service: hello}]
services: {hello: {endpoints: ["127.0.0.1:9001", "127.0.0.1:9002"]}}
"""
BAD = """\
listeners: {web: {bind: ":8080", protcol: http}}
routes: [{service: helo}]
services: {hello: {endpoints: ["127.0.0.1"]}}
"""
BAD_REPORT = """\
conf.yaml:1:34: unknown key "protcol", did you mean "protocol"?
  listeners: {web: {bind: ":8080", protcol: http}}
                                   ^
conf.yaml:2:20: no service is named "helo", did you mean "hello"?
  routes: [{service: helo}]
                     ^
conf.yaml:3:32: "127.0.0.1" has no port; write "127.0.0.1:80"
  services: {hello: {endpoints: ["127.0.0.1"]}}
                                 ^
edgeproxy: 3 errors in the configuration
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf.yaml").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize(("place", "why"), [
    ("nowhere/a.sock", "the directory does not exist; create it first"),
    ("conf.yaml", "the path exists and is not a socket; remove it or choose another path"), ("a.sock", "")])
def test_a_place_for_admin_is_looked_at(folder: Path, place: str, why: str) -> None:
    (folder / "conf.yaml").write_text(f"{GOOD}admin: {{bind: 'unix:{place}'}}\n")
    done = edgeproxy("check", cwd=folder, EDGEPROXY_CONFIG="conf.yaml")
    if not why:
        assert done.status == 0 and not (folder / place).exists()
        return
    assert (done.status, done.err) == (78, f"edgeproxy: admin: unix:{folder}/{place}: {why}\n")


# ---- help, versions, schema

def test_help_is_short_and_names_every_command() -> None:
    done = edgeproxy("--help")
    assert (done.status, done.err) == (0, "")
    assert len(done.out.splitlines()) < 35
    assert all(f"edgeproxy {command}" in done.out for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_help(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0


def test_the_parser_and_the_help_know_the_same_commands() -> None:
    [commands] = [action for action in cli._parser()._actions if action.metavar == "COMMAND"]
    assert commands.choices is not None
    assert tuple(sorted(commands.choices)) == cli.COMMANDS


def test_version() -> None:
    done = edgeproxy("version")
    assert (done.status, done.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert list(lines) == ["edgeproxy", "python", "loop", "codec", "http2", "sessions", "openssl"]
    assert lines["edgeproxy"] == package.__version__
    assert lines["python"].startswith("{}.{}.{} ".format(*sys.version_info))


@pytest.mark.parametrize(("variable", "value", "key", "wanted"), [
    ("EDGEPROXY_PURE", "1", "codec", "pure"), ("EDGEPROXY_PURE", "1", "sessions", "interpreted"),
    ("EDGEPROXY_LOOP", "asyncio", "loop", "asyncio")])
def test_version_tells_what_is_in_use(variable: str, value: str, key: str, wanted: str) -> None:
    facts = json.loads(edgeproxy("version", "--json", **{variable: value}).out)
    assert facts[key] == wanted
    assert set(facts) == {"version", "python", "implementation", "loop", "loop_version", "codec", "http2", "sessions",
                          "openssl"}


def test_version_option() -> None:
    assert edgeproxy("--version") == (0, f"edgeproxy {package.__version__}\n", "")


def test_schema_is_json_schema() -> None:
    done = edgeproxy("schema")
    schema = json.loads(done.out)
    assert (done.status, done.err) == (0, "")
    assert schema["$schema"].startswith("https://json-schema.org/") and "listeners" in schema["properties"]


# ---- usage

@pytest.mark.parametrize(("args", "message"), [
    (["chek"], 'edgeproxy: unknown command "chek", did you mean "check"? (see edgeproxy --help)\n'),
    (["xyz"], 'edgeproxy: unknown command "xyz" (see edgeproxy --help)\n'),
    (["--nonsense"], "edgeproxy: unrecognized arguments: --nonsense (see edgeproxy --help)\n"),
    (["-c"], "edgeproxy: argument -c/--config: expected one argument (see edgeproxy --help)\n"),
    (["proxy"], "edgeproxy: the following arguments are required: --from, --to (see edgeproxy proxy --help)\n"),
    (["explain"], "edgeproxy: the following arguments are required: [METHOD] URL (see edgeproxy explain --help)\n"),
    (["demo", "--port", "http"], "edgeproxy: argument --port: 'http' is not a port (see edgeproxy demo --help)\n"),
])
def test_usage(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", message)


def test_no_configuration_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    done = edgeproxy(cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    first, *rest = done.err.splitlines()
    assert first == ("edgeproxy: no configuration: $EDGEPROXY_CONFIG is not set, and there is neither ./edgeproxy.yaml "
                     "nor /etc/edgeproxy/edgeproxy.yaml")
    assert [line.split()[:2] for line in rest] == [["edgeproxy", "-c"], ["edgeproxy", "demo"], ["edgeproxy", "proxy"]]


# ---- check

def test_check_a_good_file(folder: Path) -> None:
    expected = (0, "conf.yaml: ok (1 listener, 1 route, 1 service)\n", "")
    for args in (["check", "-c", "conf.yaml"], ["-t", "-c", "conf.yaml"], ["-c", "conf.yaml", "check"]):
        assert edgeproxy(*args, cwd=folder) == expected


def test_check_reports_every_error(folder: Path) -> None:
    (folder / "conf.yaml").write_text(BAD)
    assert edgeproxy("check", "-c", "conf.yaml", cwd=folder) == (78, "", BAD_REPORT)


def test_a_bad_file_is_not_started(folder: Path) -> None:
    (folder / "conf.yaml").write_text(BAD)
    assert edgeproxy("-c", "conf.yaml", cwd=folder) == (78, "", BAD_REPORT)


def test_check_json(folder: Path) -> None:
    done = edgeproxy("check", "-c", "conf.yaml", "--json", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out) == {"ok": True, "files": ["conf.yaml"], "errors": [], "warnings": [], "listeners": 1,
                                    "routes": 1, "services": 1}
    (folder / "conf.yaml").write_text(BAD)
    done = edgeproxy("check", "-c", "conf.yaml", "--json", cwd=folder)
    report = json.loads(done.out)
    assert (done.status, done.err, report["ok"]) == (78, "", False)
    assert report["errors"][1] == {"file": "conf.yaml", "line": 2, "column": 20,
                                   "message": 'no service is named "helo", did you mean "hello"?'}


def test_check_warns(folder: Path) -> None:
    (folder / "conf.yaml").write_text(GOOD.replace("services: {", 'services: {spare: {endpoints: ["127.0.0.1:1"]}, '))
    done = edgeproxy("check", "-c", "conf.yaml", cwd=folder)
    assert done.status == 0
    assert done.out == "conf.yaml: ok (1 listener, 1 route, 2 services, 1 warning)\n"
    assert done.err.splitlines()[0] == 'conf.yaml:3:12: warning: no route and no listener uses the service "spare"'
    report = json.loads(edgeproxy("check", "-c", "conf.yaml", "--json", cwd=folder).out)
    assert [w["line"] for w in report["warnings"]] == [3]


def test_check_binds_nothing_and_creates_nothing(folder: Path) -> None:
    (folder / "conf.yaml").write_text(GOOD.replace('"127.0.0.1:0"', '"unix:e.sock"') + "access_log: {path: a.log}\n")
    assert edgeproxy("check", "-c", "conf.yaml", cwd=folder).status == 0
    assert [path.name for path in folder.iterdir()] == ["conf.yaml"]


@pytest.mark.parametrize("command", [["check"], []])
@pytest.mark.parametrize(("name", "message"), [
    ("nope.yaml", "edgeproxy: nope.yaml: no such file or directory\n"),
    ("empty", "edgeproxy: empty: no *.yaml in this directory\n"),
])
def test_a_missing_file_is_one_line(folder: Path, command: list[str], name: str, message: str) -> None:
    (folder / "empty").mkdir()
    assert edgeproxy(*command, "-c", name, cwd=folder) == (78, "", message)


@pytest.mark.parametrize("command", [["check"], []])
@pytest.mark.parametrize(("path", "fault"), [("logs", "is a directory"), ("no/a.log", "there is no folder {}/no")])
def test_an_access_log_that_cannot_be(folder: Path, command: list[str], path: str, fault: str) -> None:
    (folder / "logs").mkdir()
    (folder / "conf.yaml").write_text(GOOD + f"access_log: {{path: {path}}}\n")
    done = edgeproxy(*command, "-c", "conf.yaml", cwd=folder)
    assert done == (78, "", f"edgeproxy: access_log: {folder / path}: {fault.format(folder)}\n")


def test_a_folder_and_several_files(folder: Path) -> None:
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "a.yaml").write_text("services: {hello: {endpoints: ['127.0.0.1:1']}}\n")
    (folder / "b.yaml").write_text(GOOD.replace("services", "#"))
    done = edgeproxy("check", "-c", "conf.d", "-c", "b.yaml", cwd=folder)
    assert done == (0, "conf.d b.yaml: ok (1 listener, 1 route, 1 service)\n", "")
    assert edgeproxy("-c", "conf.d", "check", "-c", "b.yaml", cwd=folder) == done


def test_search_path(folder: Path) -> None:
    ok = ": ok (1 listener, 1 route, 1 service)\n"
    (folder / "conf.yaml").rename(folder / "edgeproxy.yaml")
    assert edgeproxy("check", cwd=folder).out == "edgeproxy.yaml" + ok
    named = str(folder / "other.yaml")
    (folder / "other.yaml").write_text(GOOD)
    assert edgeproxy("check", cwd=folder, EDGEPROXY_CONFIG=named).out == named + ok
    assert edgeproxy("check", cwd=folder, EDGEPROXY_CONFIG="gone") == (
        78, "", "edgeproxy: gone: no such file or directory\n")


# ---- streams and endings

def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen([*PROGRAM, "schema"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(20)) == (b"", 1)
    process.stderr.close()


def test_closed_descriptors_are_survived(folder: Path) -> None:
    shell = f"{' '.join(PROGRAM)} check -c conf.yaml >&- 2>&- <&-"
    assert subprocess.run(["/bin/sh", "-c", shell], cwd=folder, env=environment(), timeout=30).returncode == 0


def test_ascii_output_is_survived(folder: Path) -> None:
    (folder / "conf.yaml").write_text(BAD.replace("helo", "héllo→"))
    done = edgeproxy("check", "-c", "conf.yaml", cwd=folder, PYTHONIOENCODING="ascii")
    assert done.status == 78 and "\\xe9" in done.err


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0
    monkeypatch.setattr(cli, "schema_command", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a loop of an earlier test may have left its own
    try:
        assert cli.main(["schema"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "")


def test_an_internal_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                       tmp_path: Path) -> None:
    def broken(_: object) -> int:
        raise KeyError("what\nis this")
    monkeypatch.setattr(cli, "schema_command", broken)
    monkeypatch.delenv("EDGEPROXY_DEBUG", raising=False)
    assert cli.main(["schema"]) == 1
    assert capsys.readouterr().err == ("edgeproxy: internal error: KeyError: 'what\\nis this', please report "
                                       "(EDGEPROXY_DEBUG=1 keeps a trace)\n")
    monkeypatch.setenv("EDGEPROXY_DEBUG", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert cli.main(["schema"]) == 1
    line = capsys.readouterr().err
    [trace] = tmp_path.iterdir()
    assert line == f"edgeproxy: internal error: KeyError: 'what\\nis this', please report with {trace}\n"
    assert "in broken" in trace.read_text()


def test_an_error_of_the_system_is_one_line(monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "schema_command", lambda _: os.open("/nowhere/x", os.O_RDONLY))
    assert cli.main(["schema"]) == 1
    assert capsys.readouterr().err == "edgeproxy: /nowhere/x: No such file or directory\n"


@pytest.mark.parametrize(("env", "colours"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                                              ({"TERM": "dumb"}, False)])
def test_colour_on_terminals_only(folder: Path, env: dict[str, str], colours: bool) -> None:
    (folder / "conf.yaml").write_text(BAD)
    ours, theirs = pty.openpty()
    done = subprocess.run([*PROGRAM, "check", "-c", "conf.yaml"], cwd=folder, stderr=theirs, timeout=30,
                          env={k: v for k, v in environment(**env).items() if k != "NO_COLOR" or "NO_COLOR" in env})
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 78
    assert ("\x1b[31m" in said) is colours
    assert said.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\r", "") == BAD_REPORT


LIGHT = """
import sys
from edgeproxy import cli
assert cli.main({args!r}) == 0
heavy = ("edgeproxy.session", "edgeproxy.runtime.proxy", "edgeproxy.upstream", "asyncio", {more})
print(sorted(name for name in sys.modules if name.startswith(heavy)), file=sys.stderr)
"""


@pytest.mark.parametrize(("args", "more"), [
    (["schema"], '"cryptography"'), (["check", "-c", "conf.yaml"], '"cryptography", "ssl"'),
    (["version"], '"yaml", "cryptography"')])
def test_what_only_looks_does_not_load_the_data_path(folder: Path, args: list[str], more: str) -> None:
    script = LIGHT.format(args=args, more=more)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(EDGEPROXY_LOOP="asyncio"),
                          capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "[]\n")


LOGGED = """\
import logging
from edgeproxy.cli import error_log
from edgeproxy.config.load import ConfigError, Problem

error_log()
log = logging.getLogger("edgeproxy")
hostile = "x\\x9b2J\\x85\\u202e\\x1b[31m\\u2028\\n2026-01-01T00:00:00.000Z error forged\\r\\t\\x00\\udc80ü"
log.info("endpoint %s: %s of %d", "a", hostile, 3)
log.error("refused:\\n%s", ConfigError([Problem("a.yaml", 1, 1, "one"), Problem("a.yaml", 2, 1, "two")]))
try:
    raise ValueError(hostile.replace("\\n", ""))
except ValueError:
    log.exception("failed")
"""


def test_nothing_that_is_logged_is_obeyed_or_ends_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGED], env=environment(PYTHONIOENCODING="utf-8"), capture_output=True,
                          timeout=30)
    text = done.stderr.decode()
    assert all(char.isprintable() or char == "\n" for char in text), text
    first, refused, *more = text.rstrip("\n").split("\n")
    escaped = r"x\x9b2J\x85\u202e\x1b[31m\u2028\n2026-01-01T00:00:00.000Z error forged\r\t\x00\udc80ü"
    assert first.partition(" ")[2] == f"info endpoint a: {escaped} of 3"
    assert refused.endswith(" error refused:") and more[:2] == ["a.yaml:1:1: one", "a.yaml:2:1: two"]
    assert more[2].endswith(" error failed") and more[3] == "Traceback (most recent call last):"
    assert more[-1] == "ValueError: " + escaped.replace(r"\n", "")
