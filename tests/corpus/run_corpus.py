#!/usr/bin/env python3
"""Send a corpus of raw requests through a reverse proxy and judge what comes out on both sides.

    run_corpus.py --target 127.0.0.1:8080 --origin 127.0.0.1:9000 corpus/*.jsonl [--json report.json]

The proxy at --target must already forward every host and path to --origin; this program listens there and plays
the origin. Each row gets a fresh client connection: the raw bytes, then, if the connection lives, a valid
follow-up with a unique mark. The origin reads strictly what reaches it, twice: Content-Length first and
Transfer-Encoding first. Where the readings differ, where bytes are malformed, or where the origin counts other
requests than the client gets answers, the row fails whatever it expects. Otherwise one of these must be expected:

  status:400, status:4xx   the proxy itself answered so; the connection is closed or still in step
  reject                   4xx, 501 or 505 from the proxy, then closed; or closed without an answer
  close                    closed without an answer        wait   no answer yet, still open, nothing complete behind
  forward                  answered by the origin          forward+close   exactly that once, then closed
  same-count               anything on which client and origin agree
  accept / error           a strict parser takes / refuses the bytes; it may refuse after `messages` good ones

Rows of kind "response" go the other way: the origin gives the raw bytes as its answer to a plain GET.
Exit status: 0 every row passed, 1 some failed, 2 nothing ran.
"""
from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?")
FIELD_NAME = re.compile(TOKEN)
EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + EXTENSION + rb")*")
BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
PLACEHOLDER = b"localhost:8080"  # the host in the rows; every case gets a name of its own, of the same length
NAME = re.compile(rb"c\d{5}\.invalid")
MARK, REPLY = b"/__mark__/", b"/__reply__/"


# ---- strict reading -----------------------------------------------------------------------------------------

class Bad(Exception):
    """The bytes do not match the grammar."""


class Head(NamedTuple):
    method: bytes
    target: bytes
    minor: int
    fields: list[tuple[bytes, bytes]]
    end: int


def read_lines(buf: bytes, at: int) -> tuple[list[bytes], int] | None:
    """The lines up to an empty one and the position behind it; None if more bytes are needed."""
    if buf.startswith(b"\r\n", at):
        return [], at + 2
    stop = buf.find(b"\r\n\r\n", at)
    part = buf[at:stop + 2 if stop >= 0 else len(buf)]
    if found := BROKEN_LINE.search(part):
        raise Bad(f"bare CR, bare LF or NUL: {part[max(0, found.start() - 20):found.end() + 10]!r}")
    return (part[:-2].split(b"\r\n"), stop + 4) if stop >= 0 else None


def read_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not FIELD_NAME.fullmatch(name):
            raise Bad(f"field line {line[:60]!r}")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def read_head(buf: bytes, at: int) -> Head | None:
    got = read_lines(buf, at)
    if got is None:
        return None
    first = REQUEST_LINE.fullmatch(got[0][0]) if got[0] else None
    if not first:
        raise Bad(f"request line {got[0][:1]!r:.80}")
    fields = read_fields(got[0][1:])
    if [n for n, _ in fields].count(b"host") > 1:  # none at all is the business of the rows about that
        raise Bad("more than one Host")
    return Head(first[1], first[2], int(first[3]), fields, got[1])


def chunked_end(buf: bytes, at: int) -> int | None:
    while True:
        stop = buf.find(b"\r\n", at)
        line = buf[at:stop if stop >= 0 else len(buf)]
        size = CHUNK_LINE.fullmatch(line)
        if BROKEN_LINE.search(line) or stop >= 0 and not size:
            raise Bad(f"chunk line {line[:60]!r}")
        if stop < 0 or size is None:
            return None
        length, at = int(size[1], 16), stop + 2
        if length == 0:
            trailer = read_lines(buf, at)
            return trailer and (read_fields(trailer[0]), trailer[1])[1]
        if buf[at + length:at + length + 2] not in (b"\r\n", b"\r", b""):
            raise Bad("no CRLF after chunk data")
        at += length + 2
        if at > len(buf):
            return None


def body_end(buf: bytes, head: Head, te_first: bool) -> int | None:
    codings = [c.strip(b" \t").lower() for n, v in head.fields if n == b"transfer-encoding" for c in v.split(b",")]
    lengths = [v for n, v in head.fields if n == b"content-length"]
    if codings and (te_first or not lengths):
        if not head.minor or codings[-1] != b"chunked" or codings.count(b"chunked") > 1 or b"" in codings:
            raise Bad(f"Transfer-Encoding {b', '.join(codings)[:60]!r} in HTTP/1.{head.minor}")
        return chunked_end(buf, head.end)
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit()):
        raise Bad(f"Content-Length {b' | '.join(lengths)[:60]!r}")
    end = head.end + int(lengths[0]) if lengths else head.end
    return end if end <= len(buf) else None


def read_both(buf: bytes, at: int = 0) -> tuple[Head, int, bool] | None:
    """(head, end, agreed) of the next request; None if both readings need more bytes; Bad if both fail."""
    head = read_head(buf, at)
    if head is None:
        return None
    ends: list[int | None | Bad] = []
    for te_first in (False, True):
        try:
            ends.append(body_end(buf, head, te_first))
        except Bad as why:
            ends.append(why)
    if isinstance(ends[0], Bad) and isinstance(ends[1], Bad):
        raise ends[1]
    if ends == [None, None]:
        return None
    both = {b"content-length", b"transfer-encoding"} <= {name for name, _ in head.fields}  # never to be sent
    return head, next((e for e in reversed(ends) if isinstance(e, int)), len(buf)), ends[0] == ends[1] and not both


def count(buf: bytes, te_first: bool) -> int:
    """How many complete requests an origin with this preference finds."""
    at = seen = 0
    try:
        while at < len(buf) and (head := read_head(buf, at)) and (end := body_end(buf, head, te_first)) is not None:
            at, seen = end, seen + 1
    except Bad:
        pass
    return seen


# ---- the recording origin -----------------------------------------------------------------------------------

class Event(NamedTuple):
    time: float
    kind: str  # request, mark, differ, malformed
    text: str


class Recorder:
    """What the origin saw, in order and by the case names found in the bytes."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.by_name: dict[bytes, list[Event]] = collections.defaultdict(list)
        self.replies: dict[int, bytes] = {}

    def add(self, kind: str, text: str, data: bytes) -> None:
        event = Event(time.monotonic(), kind, text)
        self.events.append(event)
        for name in set(NAME.findall(data)):
            self.by_name[name].append(event)

    def serve(self, host: str, port: int) -> None:
        """Listen in a thread of its own; return once the port is bound."""
        loop, ready = asyncio.new_event_loop(), threading.Event()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(loop.create_server(lambda: Origin(self), host, port, backlog=1024))
            ready.set()
            loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        if not ready.wait(5):
            sys.exit(f"cannot listen on {host}:{port}")


class Origin(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.buf, self.last, self.continued = recorder, b"", False, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buf += data
        while self.buf and not self.transport.is_closing() and self.step():
            pass
        if self.last:
            self.transport.close()

    def step(self) -> bool:
        """Take one request off the buffer and answer it; False to wait for bytes or to stop."""
        try:
            got = read_both(self.buf)
        except Bad as why:
            self.recorder.add("malformed", str(why), self.buf)
            self.answer(400, b"-", last=True)
            return False
        if got is None:
            waits = re.search(rb"(?i)\r\nexpect:[ \t]*100-continue[ \t]*\r\n", self.buf) and b"\r\n\r\n" in self.buf
            if waits and not self.continued:
                self.continued = True
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        head, end, agreed = got
        data, self.continued = self.buf[:end], False
        name = (NAME.findall(data) or [b"-"])[0]
        line = (head.method + b" " + head.target[:60]).decode("latin-1")
        if not agreed:
            self.recorder.add("differ", f"{line}: {count(self.buf, False)} requests by Content-Length, "
                                        f"{count(self.buf, True)} by Transfer-Encoding", self.buf)
            self.answer(200, name, last=True)
            return False
        self.buf = self.buf[end:]
        mark = head.target.startswith(MARK)
        self.recorder.add("mark" if mark else "request", line, data)
        if head.target.startswith(REPLY) and head.target[len(REPLY):].isdigit():
            self.transport.write(self.recorder.replies.get(int(head.target[len(REPLY):]), b""))
            asyncio.get_running_loop().call_later(0.08, self.transport.close)
        else:
            closing = not head.minor or any(n == b"connection" and b"close" in v.lower() for n, v in head.fields)
            self.answer(405 if head.method == b"CONNECT" else 200, name + (b" mark" if mark else b""), closing)
        return True

    def answer(self, status: int, tag: bytes, last: bool) -> None:
        self.last = self.last or last
        self.transport.write(b"HTTP/1.1 %d Recorded\r\nContent-Length: 0\r\nX-Seen: %s\r\n%s\r\n"
                             % (status, tag, b"Connection: close\r\n" if last else b""))


# ---- the client side ----------------------------------------------------------------------------------------

class Answer(NamedTuple):
    status: int
    tag: bytes | None  # the origin's X-Seen, None if the proxy answered
    bye: bool


class Answers:
    """The responses on one client connection, read strictly."""

    def __init__(self, head_only: bool) -> None:
        self.buf, self.interim, self.head_only, self.flaw, self.switched = b"", 0, head_only, "", False
        self.got: list[Answer] = []

    def feed(self, data: bytes, closed: bool) -> None:
        self.buf += data
        try:
            while self.buf and not self.flaw and not self.switched and self.step(closed):
                pass
        except Bad as why:
            self.flaw = str(why)

    def step(self, closed: bool) -> bool:
        got = read_lines(self.buf, 0)
        if not self.buf.startswith(b"HTTP/1."[:len(self.buf)]) or got and not STATUS_LINE.fullmatch(got[0][0]):
            raise Bad(f"no status line: {self.buf[:40]!r}")
        if got is None:
            return False
        status, fields = int(got[0][0][9:12]), dict(read_fields(got[0][1:]))
        end: int | None = got[1]
        tag = fields.get(b"x-seen")
        self.switched = status == 101
        if 100 <= status < 200 and not self.switched:
            self.interim += 1
        else:
            if status in (101, 204, 304) or tag or self.head_only:
                pass  # no body; the recorder's own answers have none either
            elif b"transfer-encoding" in fields:
                end = chunked_end(self.buf, got[1])
            elif b"content-length" in fields:
                end = got[1] + int(fields[b"content-length"])
            else:
                end = len(self.buf) if closed else None
            if end is None or end > len(self.buf):
                return False
            self.got.append(Answer(status, tag, b"close" in fields.get(b"connection", b"").lower()))
        self.buf = self.buf[end:]
        return True


class Case:
    def __init__(self, row: dict[str, Any], number: int) -> None:
        self.row, self.number, self.name = row, number, b"c%05d.invalid" % number
        self.raw = base64.b64decode(row["raw"])
        self.reply = row.get("kind") == "response"
        self.shared = PLACEHOLDER in self.raw and not self.reply  # named at the origin, so it can run beside others
        self.flaws: list[str] = []
        self.outcomes: set[str] = set()
        self.saw = ""
        self.again = False  # failed once and was run a second time

    @property
    def passed(self) -> bool:
        return not self.flaws and bool(self.outcomes & set(self.row["expect"]))

    async def run(self, target: tuple[str, int], recorder: Recorder, alone: bool, patience: float = 0.45) -> None:
        since, closed = time.monotonic(), False
        raw = (b"GET %s%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (REPLY, self.number, self.name) if self.reply
               else self.raw.replace(PLACEHOLDER, self.name))
        reader, writer = await asyncio.open_connection(*target)
        answers = Answers(raw.startswith(b"HEAD "))

        async def read(seconds: float, enough: Callable[[], object]) -> None:
            nonlocal closed
            limit = time.monotonic() + seconds
            while not closed and not enough() and (left := limit - time.monotonic()) > 0:
                try:
                    data = await asyncio.wait_for(reader.read(65536), left)
                except TimeoutError:
                    return
                except OSError:
                    data = b""
                closed = not data
                answers.feed(data, closed)

        async def write(data: bytes) -> None:
            try:
                writer.write(data)
                await asyncio.wait_for(writer.drain(), 0.2)
            except (TimeoutError, OSError):
                pass

        at = 0
        for cut in [*self.row.get("split", []), len(raw)]:
            await write(raw[at:cut])
            await asyncio.sleep(0.05 if cut < len(raw) else 0)
            at = cut
        await read(patience, lambda: answers.got)
        await read(0.25 if self.reply else 0.04, lambda: self.reply and answers.got)
        before = list(answers.got)
        asked = bool(before) and not closed and not self.reply
        if asked:
            await write(b"GET %s%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (MARK, self.number, self.name))
            await read(patience, lambda: any((a.tag or b"").endswith(b" mark") for a in answers.got))
            await read(0.02, lambda: False)
        writer.transport.abort()
        await asyncio.sleep(0.01)
        if self.reply:
            self.judge_reply(answers, closed)
        else:
            events = [e for e in recorder.events if e.time >= since] if alone else recorder.by_name[self.name]
            self.judge(before, answers, closed, asked, events)

    def judge(self, before: list[Answer], answers: Answers, closed: bool, asked: bool, events: list[Event]) -> None:
        kinds = collections.Counter(e.kind for e in events)
        from_origin = [a.tag for a in answers.got if a.tag is not None]
        marked = any(tag.endswith(b" mark") for tag in from_origin)
        whole, behind, last = self.row.get("messages"), kinds["request"], before[-1] if before else None
        # a connection given up by "Connection: close" may stay open a while; nothing on it counts any more
        said_bye = asked and last is not None and last.bye
        gone = closed or said_bye and len(answers.got) == len(before) and not kinds["mark"]
        # HTTP/0.9: the recorder's empty answer is nothing at all
        simple = closed and not answers.got and behind == 1 and re.match(rb"[A-Z]+ [^ \r\n]+\r?\n", self.raw)
        self.saw = (f"answers {[a.status if a.tag is None else f'{a.status} origin' for a in answers.got]}"
                    f"{' then closed' if closed else ' then silence' if gone else ', open'}; "
                    f"origin {behind} requests, {kinds['mark']} follow-ups")
        self.flaws = [f"origin: {e.kind}: {e.text}" for e in events if e.kind in ("differ", "malformed")]
        surplus = behind + kinds["mark"] - len(from_origin) - bool(answers.flaw or simple)
        if surplus and not self.flaws and not answers.flaw:
            self.flaws.append(f"the origin saw {'more' if surplus > 0 else 'fewer'} requests than it gave answers")
        if any(NAME.match(tag) and not tag.startswith(self.name) for tag in from_origin):
            self.flaws.append("the answer to another request")
        if answers.interim and re.match(rb"[^\r\n]* HTTP/1\.0\r?\n", self.raw):
            self.flaws.append("1xx to an HTTP/1.0 client")
        if whole and asked and not gone and len(answers.got) == len(before):
            self.flaws.append("no answer to the follow-up, and still open")
        self.outcomes = {"same-count", "accept"}  # a proxy may be stricter than a parser, so only flaws count there
        if simple:
            self.outcomes.add("forward")
        elif last is None:
            self.outcomes |= {"close", "reject", "error"} if closed else {"wait"}
        elif last.tag is None:
            self.outcomes |= {f"status:{last.status}", f"status:{last.status // 100}xx"}
            if last.status // 100 == 4 or last.status in (501, 505):
                self.outcomes |= {"error", "reject"} if gone and not marked else {"error"}
        else:
            self.outcomes |= {"forward", "forward+close"} if gone and not marked and behind == 1 else {"forward"}
            old = gone and re.match(rb"[^\r\n]* HTTP/1\.0\r?\n", self.raw)  # keeping an HTTP/1.0 connection is optional
            if whole and "error" not in self.row["expect"] and (behind > whole or behind < whole and not old):
                self.flaws.append(f"{behind} of {whole} requests forwarded")
        if gone and behind <= (whole or 0):
            self.outcomes.add("error")  # refused after the good part

    def judge_reply(self, answers: Answers, closed: bool) -> None:
        own = re.match(rb"HTTP/\d\.\d (\d{3})", self.raw)
        last = answers.got[-1].status if answers.got else None
        self.saw = f"answer {last}{' and more bytes' if answers.buf else ''}{', closed' if closed else ''}"
        self.flaws = [f"passed on: {answers.flaw}"] if answers.flaw else []
        good = last is not None and own is not None and last == int(own[1])
        self.outcomes = {"accept", "forward"} if good else {"accept", "error"}
        if good and self.row.get("messages"):
            self.outcomes.add("error")  # the part before the error is a complete answer


# ---- running and reporting ----------------------------------------------------------------------------------

async def run_all(cases: list[Case], target: tuple[str, int], recorder: Recorder, jobs: int) -> None:
    gate = asyncio.Semaphore(jobs)

    async def one(case: Case) -> None:
        async with gate:
            await case.run(target, recorder, alone=False)

    await asyncio.gather(*(one(c) for c in cases if c.shared))
    for case in (c for c in cases if not c.shared):
        await case.run(target, recorder, alone=True)
    for case in [c for c in cases if not c.passed][:250]:  # once more, without company
        case.again = True
        await case.run(target, recorder, alone=True)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def report(cases: list[Case], seconds: float, path: str | None) -> None:
    table: dict[str, dict[str, list[int]]] = {}
    for case in cases:
        cell = table.setdefault(case.row["source"], {}).setdefault(case.row["category"], [0, 0])
        cell[0] += 1
        cell[1] += case.passed
    for source, cells in table.items():
        print(f"{source}: {sum(n for n, _ in cells.values())} rows, {sum(n for _, n in cells.values())} pass")
        for category, (rows, good) in sorted(cells.items()):
            print(f"    {category:28} {rows:5} rows {good:5} pass {rows - good:5} fail")
    failed = [c for c in cases if not c.passed]
    for case in failed:
        print(f"FAIL {case.row['id']}  expected {' | '.join(case.row['expect'])}; saw {case.saw}"
              + "".join(f"; {flaw}" for flaw in case.flaws[:2]))
    second = [c.row["id"] for c in cases if c.passed and c.again]
    if second:
        print(f"passed only when run again alone: {len(second)}: {' '.join(second[:20])}")
    print(f"{len(cases)} rows, {len(cases) - len(failed)} pass, {len(failed)} fail, {seconds:.1f} s")
    if path:
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"rows": len(cases), "passed": len(cases) - len(failed), "failed": len(failed),
                       "seconds": round(seconds, 1), "second_try": second,
                       "sources": {s: {c: {"rows": n, "pass": good, "fail": n - good} for c, (n, good) in cells.items()}
                                   for s, cells in table.items()},
                       "failures": [{"id": c.row["id"], "expect": c.row["expect"], "outcomes": sorted(c.outcomes),
                                     "saw": c.saw, "flaws": c.flaws} for c in failed]}, out, indent=1)


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--target", type=address, required=True, help="host:port of the proxy")
    args.add_argument("--origin", type=address, required=True, help="host:port the proxy forwards to")
    args.add_argument("--jobs", type=int, default=16)
    args.add_argument("--only", default="", help="run the rows whose id contains this")
    args.add_argument("--json", help="write a report here")
    args.add_argument("files", nargs="+")
    opt = args.parse_args()
    rows = [json.loads(line) for path in opt.files for line in open(path, encoding="utf-8") if line.strip()]
    cases = [Case(row, i) for i, row in enumerate(rows) if opt.only in row["id"]]
    if not cases:
        print("no rows", file=sys.stderr)
        return 2
    recorder = Recorder()
    recorder.replies = {c.number: c.raw for c in cases if c.reply}
    recorder.serve(*opt.origin)
    plain = Case({"raw": base64.b64encode(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"), "expect": ["forward"],
                  "messages": 1}, 99999)
    started = time.monotonic()
    try:
        asyncio.run(plain.run(opt.target, recorder, alone=True, patience=3))
        if not plain.passed:
            print(f"a plain GET does not reach the origin: {plain.saw} {plain.flaws}", file=sys.stderr)
            return 2
        asyncio.run(run_all(cases, opt.target, recorder, opt.jobs))
    except OSError as why:
        print(f"the proxy is not reachable: {why}", file=sys.stderr)
        return 2
    report(cases, time.monotonic() - started, opt.json)
    return 0 if all(c.passed for c in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
