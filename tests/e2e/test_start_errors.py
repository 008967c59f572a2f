"""A start that cannot succeed: every mistake with its place, one plain line, the right status, never a traceback."""
from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.program import command, environment, free_port, web


def _run(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """(exit status, what it printed on standard error); never a traceback, never anything on standard output."""
    done = subprocess.run([*prefix, *command(), *arguments], cwd=folder, env=environment(), capture_output=True,
                          text=True, timeout=10, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_five_mistakes_are_five_errors_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "listeners:\n"
        "  web: {bind: ':99999', protocol: http}\n"                 # 2
        "  other: {bind: ':8080', protcol: http}\n"                 # 3
        "routes:\n"
        "  - {host: a.example, service: nobody}\n"                  # 5
        "  - {host: b.example, service: app, timeouts: {response: soon}}\n"  # 6
        "services:\n"
        "  app: {endpoints: ['127.0.0.1:80', '127.0.0.1:80']}\n")   # 8
    status, told = _run(tmp_path, "-c", "bad.yaml")
    assert status == 78
    places = re.findall(r"^bad\.yaml:(\d+):(\d+): ", told, re.MULTILINE)
    assert {int(line) for line, _ in places} == {2, 3, 5, 6, 8}, told
    assert 'did you mean "protocol"?' in told
    assert told.count("^") >= 5, "the line and a caret"


@pytest.mark.parametrize("text", ["", "listeners: [", "\t- x", "\0\1\2", "- just\n- a list\n", "listeners: {}\n",
                                  "listeners: {web: {bind: ':1', protocol: http, tls: {}}}\nroutes: []\nservices: {}\n",
                                  "a: &x [*x]\n", "listeners: !!python/object/apply:os.system ['id']\n",
                                  "x: 1\nx: 2\n", "\ud83d\ude00: {}\n"])
def test_any_text_is_at_most_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(text.encode("utf-16", "surrogatepass").decode("utf-16").encode())
    status, told = _run(tmp_path, "-c", "bad.yaml")
    assert status == 78
    assert "bad.yaml" in told


def test_a_missing_file(tmp_path: Path) -> None:
    status, told = _run(tmp_path, "-c", "nowhere.yaml")
    assert status in (1, 78)
    assert len(told.splitlines()) == 1 and "nowhere.yaml" in told and "no such file" in told.lower()


def test_a_directory_without_files(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    status, told = _run(tmp_path, "-c", "conf")
    assert status in (1, 78)
    assert len(told.splitlines()) == 1 and "conf" in told


def test_a_directory_in_place_of_a_log_file(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "conf.yaml").write_text(web(free_port(), 1) + "access_log: {path: log}\n")
    status, told = _run(tmp_path, "-c", "conf.yaml")
    assert status in (1, 78)
    assert "is a directory" in told and len(told.splitlines()) <= 3


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text(web(free_port(), 1))
    file.chmod(0)
    prefix = _unprivileged(tmp_path)
    status, told = _run(tmp_path, "-c", "conf.yaml", prefix=prefix)
    assert status in (1, 78)
    assert len(told.splitlines()) == 1 and "permission denied" in told.lower()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "conf.yaml").write_text(web(port, 1))
        status, told = _run(tmp_path, "-c", "conf.yaml")
    assert status == 1
    assert len(told.splitlines()) == 1
    assert f"127.0.0.1:{port}" in told and "in use" in told


def test_one_taken_port_of_two_starts_nothing(tmp_path: Path) -> None:
    free = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "conf.yaml").write_text(
            f"listeners:\n  one: {{bind: '127.0.0.1:{free}', protocol: http}}\n"
            f"  two: {{bind: '127.0.0.1:{port}', protocol: http}}\n"
            "routes: [{service: app}]\nservices: {app: {endpoints: ['127.0.0.1:1']}}\n")
        status, told = _run(tmp_path, "-c", "conf.yaml")
    assert status == 1 and str(port) in told
    assert "listening on" not in told


def test_a_privileged_port(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if limit <= 1:
        pytest.skip("every port is free to everybody on this machine")
    port = min(limit - 1, 81)
    (tmp_path / "conf.yaml").write_text(web(port, 1))
    status, told = _run(tmp_path, "-c", "conf.yaml", prefix=_unprivileged(tmp_path))
    assert status == 1
    assert len(told.splitlines()) == 1
    assert f":{port}" in told and "permission denied" in told and "CAP_NET_BIND_SERVICE" in told


def test_an_address_that_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "conf.yaml").write_text(web(free_port(), 1).replace("bind: '127.0.0.1", "bind: '192.0.2.1"))
    status, told = _run(tmp_path, "-c", "conf.yaml")
    assert status == 1
    assert len(told.splitlines()) == 1 and "192.0.2.1" in told


@pytest.mark.parametrize("arguments", [("--nonsense",), ("-c",), ("frobnicate",), ()])
def test_wrong_use_is_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, told = _run(tmp_path, *arguments)
    assert status == 2
    assert told.strip()


def test_check_binds_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "conf.yaml").write_text(web(taken.getsockname()[1], 1))
        done = subprocess.run([*command(), "check", "-c", "conf.yaml"], cwd=tmp_path, env=environment(),
                              capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr


def _unprivileged(folder: Path) -> tuple[str, ...]:
    """A prefix that runs a command without privileges, if we have any."""
    if os.geteuid():
        return ()
    program = shutil.which("setpriv")
    assert program, "setpriv of util-linux is needed to drop root's privileges"
    for part in (folder, *folder.parents):  # pytest's own folders are closed to others
        if not part.stat().st_mode & 0o001:
            part.chmod(part.stat().st_mode | 0o001)
    prefix = (program, "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
    probe = subprocess.run([*prefix, sys.executable, "-c", "import edgeproxy, yaml"], env=environment(), cwd="/",
                           capture_output=True)
    if probe.returncode:
        pytest.skip("nobody may run this Python: its folder is closed to others")
    return prefix
