"""The access log: what a line looks like, that nothing can break one, and that nothing stops the proxy."""
from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.config import model
from edgeproxy.errors import OK, Outcome, Phase
from edgeproxy.runtime import accesslog
from edgeproxy.runtime.accesslog import AccessLog, unwritable
from edgeproxy.runtime.logline import CombinedLines, JsonLines
from edgeproxy.session.record import ExchangeRecord

EPOCH = 1_763_831_976.0  # 2025-11-22T17:19:36Z


def head(*fields: bytes, target: bytes = b"/x?y=1", method: bytes = b"GET") -> RequestHead:
    raw = b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: a.example", *fields, b"", b""))
    parsed = parse_request(raw, 65536, 100)
    assert parsed is not None
    return parsed


def Ended(head: RequestHead | None = None, **words: Any) -> ExchangeRecord:  # noqa: N802
    """An exchange that is over."""
    record = ExchangeRecord()
    ordinary: dict[str, Any] = {
        "head": head, "started": 10.0, "ended": 10.003123, "client": "192.0.2.7", "status": 200, "bytes_in": 0,
        "bytes_out": 1234, "queue_s": -1.0, "connect_s": -1.0, "first_byte_s": 0.00234, "listener": "web",
        "route": "site", "service": "app", "endpoint": "10.0.0.5:80", "attempts": (), "reused": True, "outcome": OK,
        "request_id": "0011", "traceparent": "", "cause": "", "sni": "", "tls": "", "grpc_status": -1}
    for name, value in (ordinary | words).items():
        setattr(record, name, value)
    return record


def json_lines() -> JsonLines:
    return JsonLines(lambda: EPOCH - 10.0)


def one(line: str) -> dict[str, Any]:
    """The object of what must be exactly one line of ASCII."""
    assert line.endswith("\n") and line.count("\n") == 1
    assert all(" " <= c <= "~" for c in line[:-1])
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


# ---- JSON

def test_an_ordinary_exchange() -> None:
    assert json_lines().http(Ended(head(b"User-Agent: curl/8", b"Referer: http://r/"))) == (
        '{"ts":"2025-11-22T17:19:36.003Z","kind":"http","client":"192.0.2.7","method":"GET","host":"a.example",'
        '"path":"/x?y=1","protocol":"HTTP/1.1","user_agent":"curl/8","referer":"http://r/","status":200,"bytes_in":0,'
        '"bytes_out":1234,"duration_ms":3.123,"queue_ms":null,"connect_ms":null,"first_byte_ms":2.340,"listener":"web",'
        '"route":"site","service":"app","endpoint":"10.0.0.5:80","attempts":[],"reused":true,"outcome":"ok",'
        '"phase":"done","request_id":"0011","traceparent":""}\n')


def test_a_grpc_answer_tells_its_status() -> None:
    line = one(json_lines().http(Ended(head(), grpc_status=0)))
    assert line["grpc_status"] == 0 and list(line)[-3:] == ["grpc_status", "request_id", "traceparent"]
    line = one(json_lines().http(Ended(head(), grpc_status=14, status=502, tls="TLSv1.3", sni="a",
                                       outcome=Outcome("connect_refused", Phase.CONNECT))))
    assert (line["status"], line["outcome"], line["grpc_status"]) == (502, "connect_refused", 14)


def test_a_failed_exchange_tells_its_tries_and_phases() -> None:
    line = one(json_lines().http(Ended(
        head(), ended=13.5, status=504, queue_s=0.25, connect_s=0.0, first_byte_s=-1.0, endpoint="10.0.0.6:80",
        attempts=[("10.0.0.5:80", "connect_refused"), ("unix:/a\"b", "503")], reused=False,
        outcome=Outcome("response_timeout", Phase.WAIT), traceparent="00-ab-cd-01")))
    assert line["ts"] == "2025-11-22T17:19:39.500Z"
    assert line["duration_ms"] == 3500.0
    assert (line["queue_ms"], line["connect_ms"], line["first_byte_ms"]) == (250.0, 0.0, None)
    assert line["attempts"] == [{"endpoint": "10.0.0.5:80", "reason": "connect_refused"},
                                {"endpoint": 'unix:/a"b', "reason": "503"}]
    assert (line["outcome"], line["phase"], line["reused"]) == ("response_timeout", "wait", False)
    assert line["traceparent"] == "00-ab-cd-01"


def test_a_request_that_never_had_a_head_has_no_head_fields() -> None:
    line = one(json_lines().http(Ended(None, status=400, route="", service="", endpoint="", first_byte_s=-1.0,
                                       outcome=Outcome("bad_request", Phase.HEAD))))
    assert "method" not in line and "path" not in line
    assert (line["status"], line["route"], line["outcome"], line["phase"]) == (400, "", "bad_request", "head")


def test_keys_are_the_documented_ones_in_order() -> None:
    line = one(json_lines().http(Ended(head(b"User-Agent: u", b"Referer: r"))))
    assert list(line) == ("ts kind client method host path protocol user_agent referer status bytes_in bytes_out "
                          "duration_ms queue_ms connect_ms first_byte_ms listener route service endpoint attempts "
                          "reused outcome phase request_id traceparent").split()


def test_a_tcp_connection() -> None:
    line = one(json_lines().tcp(Ended(connect_s=0.0015, bytes_in=7, outcome=Outcome("reset", Phase.TUNNEL),
                                      attempts=[("10.0.0.4:80", "connect_timeout")])))
    assert line == {"ts": "2025-11-22T17:19:36.003Z", "kind": "tcp", "client": "192.0.2.7", "bytes_in": 7,
                    "bytes_out": 1234, "duration_ms": 3.123, "queue_ms": None, "connect_ms": 1.5, "listener": "web",
                    "service": "app", "endpoint": "10.0.0.5:80",
                    "attempts": [{"endpoint": "10.0.0.4:80", "reason": "connect_timeout"}],
                    "outcome": "reset", "phase": "tunnel"}


def test_long_and_odd_durations() -> None:
    for seconds, shown in ((0.0, 0.0), (0.0099994, 9.999), (0.01, 10.0), (3600.0, 3_600_000.0)):
        line = one(json_lines().http(Ended(head(), started=20.0 - seconds, ended=20.0, first_byte_s=seconds)))
        assert line["duration_ms"] == pytest.approx(shown, abs=0.0011)
        assert line["first_byte_ms"] == pytest.approx(shown, abs=0.0011)
    assert one(json_lines().http(Ended(head(), started=20.0, ended=19.9)))["duration_ms"] is None


# ---- time

def test_the_second_is_made_once_and_follows_a_stepped_clock() -> None:
    asked: list[float] = []
    ahead = [EPOCH - 10.0]

    def offset() -> float:
        asked.append(ahead[0])
        return ahead[0]

    lines = JsonLines(offset)
    stamps = [one(lines.http(Ended(head(), ended=10.0 + i / 1000)))["ts"] for i in range(1000)]
    assert stamps[0] == "2025-11-22T17:19:36.000Z" and stamps[-1] == "2025-11-22T17:19:36.999Z"
    assert stamps == sorted(stamps) and len(set(stamps)) > 990
    assert len(asked) == 1
    ahead[0] += 3600
    assert one(lines.http(Ended(head(), ended=11.0)))["ts"] == "2025-11-22T18:19:37.000Z"


@given(st.floats(0.0, 4e8), st.floats(0.0, 2e9))
def test_any_clock_makes_a_stamp(when: float, offset: float) -> None:
    line = one(JsonLines(lambda: offset).http(Ended(None, started=when, ended=when)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])


# ---- nothing breaks a line

EVIL = "a\nb\r\x00\x1b[31m\x7f\x85\u2028\ud800\"\\\"}{"


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_breaks_a_json_line(route: str, endpoint: str, request_id: str, trace: str) -> None:
    line = one(json_lines().http(Ended(head(), route=route, endpoint=endpoint, request_id=request_id,
                                       traceparent=trace, attempts=[(endpoint, trace)])))
    assert (line["route"], line["endpoint"], line["request_id"], line["traceparent"]) == (
        route, endpoint, request_id, trace)
    one(json_lines().tcp(Ended(listener=route, service=trace, endpoint=endpoint, attempts=[(route, trace)])))


def test_evil_text_is_escaped() -> None:
    line = one(json_lines().http(Ended(head(), route=EVIL, service=EVIL, request_id=EVIL, traceparent=EVIL)))
    assert line["route"] == line["request_id"] == EVIL


@pytest.mark.parametrize("value", [b'" 200 0 "-" "x', b"\\", b"\xff\xc3\xa9\x80", b"tab\there", b'"}\\', b"%0a"])
def test_evil_fields_of_a_request_stay_in_their_place(value: bytes) -> None:
    request = head(b"User-Agent: " + value, b"Referer: " + value)
    text = value.decode("latin-1")
    line = one(json_lines().http(Ended(request)))
    assert (line["user_agent"], line["referer"], line["status"]) == (text, text, 200)
    found = COMBINED.fullmatch(combined().http(Ended(request)))
    assert found is not None
    assert found["agent"].encode().decode("unicode_escape") == text
    assert found["referer"] == found["agent"]


# ---- combined

COMBINED = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>[^]]+)\] "(?P<request>(?:[^"\\\x00-\x1f\x7f-\U0010ffff]|\\x[0-9A-F]{2})*)" '
    r'(?P<status>\d{3}) (?P<bytes>\d+) "(?P<referer>(?:[^"\\]|\\x[0-9A-F]{2})*)" '
    r'"(?P<agent>(?:[^"\\]|\\x[0-9A-F]{2})*)"\n', re.ASCII)


def combined() -> CombinedLines:
    return CombinedLines(lambda: EPOCH - 10.0)


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_combined_is_nginx_s_field_order() -> None:
    assert combined().http(Ended(head(b"User-Agent: curl/8", b"Referer: http://r/"))) == (
        '192.0.2.7 - - [22/Nov/2025:17:19:36 +0000] "GET /x?y=1 HTTP/1.1" 200 1234 "http://r/" "curl/8"\n')
    assert combined().http(Ended(head())).endswith('200 1234 "-" "-"\n')
    assert combined().http(Ended(None, status=400)) == (
        '192.0.2.7 - - [22/Nov/2025:17:19:36 +0000] "-" 400 1234 "-" "-"\n')


def test_combined_escapes_as_nginx_does() -> None:
    line = combined().http(Ended(head(b'User-Agent: a"b\\c\xe9\td')))
    assert line.endswith(r'"a\x22b\x5Cc\xE9\x09d"' + "\n")


def test_combined_for_tcp_is_nginx_s_stream_format() -> None:
    assert combined().tcp(Ended(bytes_in=7, ended=12.5)) == (
        "192.0.2.7 [22/Nov/2025:17:19:38 +0000] TCP 200 1234 7 2.500\n")
    refused = Ended(outcome=Outcome("connect_refused", Phase.CONNECT))
    assert " TCP 502 " in combined().tcp(refused)


# ---- writing

def run(work: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await work(asyncio.get_running_loop())
    asyncio.run(main())


def config(path: Path | str, form: Any = "json") -> model.AccessLog:
    return model.AccessLog(str(path), form)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def test_lines_arrive_by_the_timer_and_at_close(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(path), loop)
        log.write("one\n")
        log.write("two\n")
        await until(lambda: path.read_text() == "one\ntwo\n")
        log.write("three\n")
        log.close()
        assert path.read_text() == "one\ntwo\nthree\n"
        assert log.lost == 0
        log.close()
    run(work)


def test_nothing_is_armed_and_no_thread_runs_without_lines(tmp_path: Path) -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        before = threading.active_count()
        log = AccessLog(config(tmp_path / "access.log"), loop)
        assert threading.active_count() == before
        log.write("x\n")
        log.close()
        assert threading.active_count() == before
    run(work)


def test_a_full_megabyte_does_not_wait_for_the_timer(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(path), loop)
        line = "x" * 1023 + "\n"
        for _ in range(1100):
            log.write(line)
        async with asyncio.timeout(10):  # the loop is not given a turn: only the thread can have written this
            while path.stat().st_size < accesslog.HANDOVER:
                threading.Event().wait(0.001)
        log.close()
        assert path.stat().st_size == 1100 * 1024
    run(work)


def test_off_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(tmp_path / "access.log", "off"), loop)
        assert not log.enabled
        log.write(log.http(Ended(head())))
        log.write(log.tcp(Ended()))
        log.reopen()
        log.close()
    run(work)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config("-"), loop)
        log.write(log.http(Ended(head())))
        log.reopen()
        log.write("more\n")
        log.close()
    run(work)
    lines = capfd.readouterr().out.splitlines()
    assert one(lines[0] + "\n")["status"] == 200 and lines[1] == "more"


def test_reopen_after_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(path), loop)
        log.write("before\n")
        path.rename(old)
        log.write("still before\n")
        log.reopen()
        log.write("after\n")
        log.close()
    run(work)
    assert old.read_text() == "before\nstill before\n"
    assert path.read_text() == "after\n"
    assert path.stat().st_mode & 0o137 == 0


def test_a_path_that_cannot_be_opened_again_keeps_the_old_file(tmp_path: Path,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.log"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(path), loop)
        log.write("before\n")
        log.flush()
        await until(lambda: path.read_text() == "before\n")
        path.rename(tmp_path / "old")
        path.mkdir()
        log.reopen()
        log.write("after\n")
        log.close()
    run(work)
    assert (tmp_path / "old").read_text() == "before\nafter\n"
    assert "Is a directory; going on with" in caplog.text


def test_a_new_configuration_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one_path, other = tmp_path / "one.log", tmp_path / "other.log"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(one_path), loop)
        log.exchange(Ended(head()))
        log.configure(config(other, "combined"))
        log.exchange(Ended(head()))
        log.configure(config(other, "off"))
        log.exchange(Ended(head()))
        log.connection(Ended())
        log.configure(config(tmp_path))  # a directory: the file stays, the format is followed
        log.connection(Ended())
        log.close()
    run(work)
    assert [line["kind"] for line in map(json.loads, one_path.read_text().splitlines())] == ["http"]
    first, second = other.read_text().splitlines()
    assert COMBINED.fullmatch(first + "\n") and json.loads(second)["kind"] == "tcp"
    assert f"{tmp_path}: Is a directory; going on with {other} as it was" in caplog.text


def test_a_log_that_was_off_can_be_turned_on(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config("/nowhere/access.log", "off"), loop)
        log.exchange(Ended(head()))
        log.configure(config(path))
        log.exchange(Ended(head()))
        log.close()
    run(work)
    assert one(path.read_text())["status"] == 200


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(IsADirectoryError):
            AccessLog(config(tmp_path), loop)
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError):  # and not a wait for a reader
            AccessLog(config(tmp_path / "fifo"), loop)
    run(work)


def test_what_stands_against_a_path(tmp_path: Path) -> None:
    plain = tmp_path / "access.log"
    assert unwritable("-") is None
    assert unwritable(str(plain)) is None
    assert not plain.exists()
    plain.touch()
    assert unwritable(str(plain)) is None
    assert unwritable(str(tmp_path)) == "is a directory"
    assert unwritable(str(tmp_path / "no" / "x")) == f"there is no folder {tmp_path / 'no'}"
    assert unwritable(str(plain / "x")) is not None


# ---- an output that takes nothing

class Pipe:
    """A pipe as standard output that nobody reads until asked to."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        self._saved = os.dup(1)

    def __enter__(self) -> Pipe:
        os.dup2(self._write_end, 1)
        os.close(self._write_end)
        return self

    def drain(self, into: list[bytes]) -> threading.Thread:
        def read() -> None:
            while data := os.read(self.read_end, 65536):
                into.append(data)
        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 1)
        os.close(self._saved)


def test_a_pipe_nobody_reads_drops_lines_counts_them_and_stops_nobody(caplog: pytest.LogCaptureFixture,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "PATIENCE", 0.05)
    got: list[bytes] = []
    with Pipe() as pipe:
        async def work(loop: asyncio.AbstractEventLoop) -> None:
            log = AccessLog(config("-"), loop)
            line = "x" * 1023 + "\n"
            begun = loop.time()
            for _ in range(8192):
                log.write(line)
            assert loop.time() - begun < 1.0
            assert os.get_blocking(1)  # the pipe is shared: left as it was
            assert 4096 <= log.lost <= 4096 + 64
            await until(lambda: "lines lost" in caplog.text)
            reader = pipe.drain(got)
            log.write("last\n")
            monkeypatch.setattr(accesslog, "PATIENCE", 10.0)
            await until(lambda: log._output.done == log._queued)
            log.close()
            os.dup2(pipe._saved, 1)
            reader.join()
            assert b"".join(got).count(b"\n") == 8192 + 1 - log.lost
            assert b"".join(got).endswith(b"x\nlast\n")
        run(work)
    [report] = [r for r in caplog.records if "lines lost" in r.message]
    assert report.levelno == logging.ERROR
    assert re.search(r"40\d\d|41\d\d", report.message) and "standard output: it is too slow" in report.message


def test_close_gives_a_stuck_output_up(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "PATIENCE", 0.05)
    with Pipe() as pipe:
        async def work(loop: asyncio.AbstractEventLoop) -> None:
            log = AccessLog(config("-"), loop)
            for _ in range(1000):
                log.write("x" * 1023 + "\n")
            log.close()
            log.write("too late\n")
            log.flush()
            assert log.lost == 1
        run(work)
        os.dup2(pipe._saved, 1)
        reader = pipe.drain([])
        reader.join()
    assert "takes nothing; given up" in caplog.text


def test_a_closed_pipe_costs_lines_only(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "PATIENCE", 0.01)
    with Pipe() as pipe:
        os.close(pipe.read_end)

        async def work(loop: asyncio.AbstractEventLoop) -> None:
            log = AccessLog(config("-"), loop)
            log.write("a\nb\n")
            log.flush()
            await until(lambda: log.lost == 2)
            await until(lambda: "2 lines lost since the last report, 2 in all" in caplog.text)
            log.write("c\n")
            monkeypatch.setattr(accesslog, "PATIENCE", 10.0)
            log.close()
            assert log.lost == 3
        run(work)
    assert "Broken pipe" in caplog.text
    assert "1 lines lost since the last report, 3 in all" in caplog.text


def test_a_pipe_made_non_blocking_by_others_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[bytes] = []
    with Pipe() as pipe:
        os.set_blocking(1, False)

        async def work(loop: asyncio.AbstractEventLoop) -> None:
            log = AccessLog(config("-"), loop)
            for i in range(1000):
                log.write(f"{i:1023}\n")
            log.flush()
            reader = pipe.drain(got)
            await until(lambda: log._output.done == log._queued)
            log.close()
            os.dup2(pipe._saved, 1)
            reader.join()
            assert log.lost == 0
        run(work)
    assert [int(line) for line in b"".join(got).splitlines()] == list(range(1000))


def test_a_full_disk_loses_lines_and_the_next_line_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.log"
    real = os.writev
    room = [7]

    def writev(fd: int, pieces: list[bytes]) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        data = b"".join(pieces)[:room[0]]
        room[0] -= len(data)
        return real(fd, [data])

    monkeypatch.setattr(os, "writev", writev)

    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config(path), loop)
        log.write("one\n")
        log.write("two and\n")
        log.write("three\n")
        log.flush()
        await until(lambda: log.lost == 2)
        log.write("still full\n")
        log.flush()
        await until(lambda: log.lost == 3)
        room[0] = 1000
        log.write("room again\n")
        log.close()
        assert log.lost == 3
    run(work)
    assert path.read_text() == "one\ntwo\nroom again\n"
    assert "No space left on device" in caplog.text


def test_dev_full_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    async def work(loop: asyncio.AbstractEventLoop) -> None:
        log = AccessLog(config("/dev/full"), loop)
        log.write("x\n")
        log.close()
        assert log.lost == 1
    run(work)
    assert "1 lines lost since the last report, 1 in all (/dev/full: No space left on device)" in caplog.text
