"""Nameservers for the tests: one that answers by a script, over UDP and TCP, and two real ones, knotd and dnsmasq.

All of them listen on loopback, beside the test: `ScriptedDns` in a thread of its own, so that a test of the resolver
(which has a loop) and one of the whole proxy (which has none) use it alike. What is asked is kept in `asked`.

    with ScriptedDns() as dns:
        dns.says("web.example", "A", servfail(), addresses("10.0.0.1", ttl=5))    # one after the other; the last stays
        ...
        assert [question.name for question in dns.asked] == ["web.example", "web.example"]
"""
from __future__ import annotations

import os
import selectors
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from e2e.program import free_port
from e2e.waiting import PATIENCE, eventually
from edgeproxy.config.model import Nameserver


@dataclass(frozen=True)
class Asked:
    """One question as it came."""

    name: str
    """Lower case, without the last dot."""
    type: str
    transport: Literal["udp", "tcp"]
    port: int
    """Of the one who asks."""
    payload: int
    """Octets that EDNS announced; 0 without EDNS."""
    at: float
    """time.monotonic()"""
    message: dns.message.Message = field(compare=False)

    @property
    def id(self) -> int:
        return self.message.id


Act = Callable[[Asked], Sequence[bytes] | None]
"""The messages that a question is answered with, none for silence; None closes the connection (TCP)."""


# ---- what a server may do

def _reply(asked: Asked, rcode: int = 0, answer: Iterable[dns.rrset.RRset] = (),
           authority: Iterable[dns.rrset.RRset] = ()) -> dns.message.Message:
    message = dns.message.make_response(asked.message, recursion_available=True)
    message.set_rcode(dns.rcode.Rcode(rcode))
    message.answer += list(answer)
    message.authority += list(authority)
    return message


def _wire(message: dns.message.Message) -> list[bytes]:
    return [message.to_wire(max_size=65535)]


def _soa(zone: str, ttl: int, minimum: int) -> dns.rrset.RRset:
    return dns.rrset.from_text(f"{zone}.", ttl, "IN", "SOA", f"ns.{zone}. root.{zone}. 1 2 3 4 {minimum}")


def records(*lines: str) -> Act:
    """Whatever is in the lines, as in a zone file: `web.example. 60 A 10.0.0.1`; the class is IN."""
    def act(asked: Asked) -> Sequence[bytes]:
        rrsets: list[dns.rrset.RRset] = []
        for line in lines:
            owner, ttl, rdtype, data = line.split(maxsplit=3)
            rrsets.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
        return _wire(_reply(asked, answer=rrsets))
    return act


def addresses(*texts: str, ttl: int = 60) -> Act:
    """A or AAAA records of the name that is asked for, in this order."""
    def act(asked: Asked) -> Sequence[bytes]:
        rdtype = "AAAA" if ":" in texts[0] else "A"
        # A set for each: dnspython shuffles those that are in one.
        return _wire(_reply(asked, answer=[dns.rrset.from_text(f"{asked.name}.", ttl, "IN", rdtype, text)
                                           for text in texts]))
    return act


def alias(target: str, ttl: int = 60) -> Act:
    """The CNAME alone, without what it stands for."""
    return lambda asked: _wire(_reply(asked, answer=[
        dns.rrset.from_text(f"{asked.name}.", ttl, "IN", "CNAME", f"{target}.")]))


def refuses(rcode: int) -> Act:
    return lambda asked: _wire(_reply(asked, rcode))


def servfail() -> Act:
    return refuses(2)


def refused() -> Act:
    return refuses(5)


def nxdomain(zone: str = "", ttl: int = 30, minimum: int = 30, after: Act | None = None) -> Act:
    """With the SOA of `zone`; without one if there is no zone. `after` gives the answer section (a chain)."""
    return _denial(3, zone, ttl, minimum, after)


def nodata(zone: str = "", ttl: int = 30, minimum: int = 30, after: Act | None = None) -> Act:
    return _denial(0, zone, ttl, minimum, after)


def _denial(rcode: int, zone: str, ttl: int, minimum: int, after: Act | None) -> Act:
    def act(asked: Asked) -> Sequence[bytes]:
        before = after(asked) if after is not None else None
        answer = dns.message.from_wire(before[0]).answer if before else []
        return _wire(_reply(asked, rcode, answer, [_soa(zone, ttl, minimum)] if zone else []))
    return act


def referral() -> Act:
    """Of a server that is not recursive and knows nothing: where to ask instead."""
    def act(asked: Asked) -> Sequence[bytes]:
        message = _reply(asked, authority=[dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example.")])
        message.flags &= ~dns.flags.RA
        return _wire(message)
    return act


def silence() -> Act:
    return lambda asked: []


def hangs_up() -> Act:
    """Closes without an answer over TCP; silent over UDP."""
    return lambda asked: None


def truncated(over_tcp: Act) -> Act:
    """Says so over UDP."""
    def act(asked: Asked) -> Sequence[bytes] | None:
        if asked.transport == "tcp":
            return over_tcp(asked)
        message = _reply(asked)
        message.flags |= dns.flags.TC
        return _wire(message)
    return act


def altered(act: Act, change: Callable[[bytes], bytes]) -> Act:
    """What `act` says, with other bytes."""
    return lambda asked: [change(wire) for wire in act(asked) or ()]


def wrong_id(act: Act) -> Act:
    return altered(act, lambda wire: struct.pack("!H", int.from_bytes(wire[:2], "big") ^ 0x5A5A) + wire[2:])


def wrong_question(act: Act, name: str = "other.example") -> Act:
    def another(asked: Asked) -> Sequence[bytes] | None:
        message = dns.message.make_query(f"{name}.", asked.type, id=asked.id)
        return act(Asked(name, asked.type, asked.transport, asked.port, 0, asked.at, message))
    return another


def garbage(size: int = 40) -> Act:
    return lambda asked: [bytes(range(1, size + 1))]


def cut_short(act: Act) -> Act:
    """The right id and question, then half of a record."""
    return altered(act, lambda wire: wire[:-6])


def compression_loop() -> Act:
    """The right id and question, and a record whose owner is a pointer to itself."""
    def act(asked: Asked) -> Sequence[bytes]:
        wire = dns.message.make_response(asked.message)
        wire.use_edns(False)
        head = bytearray(wire.to_wire())
        head[7] = 1
        return [bytes(head) + struct.pack("!HHHIH", 0xC000 | len(head), 1, 1, 60, 4) + bytes(4)]
    return act


def both(*acts: Act) -> Act:
    """Several messages for one question (over UDP)."""
    return lambda asked: [wire for act in acts for wire in act(asked) or ()]


def upper_case(act: Act) -> Act:
    """Names in capitals, as a server may write them."""
    def act_(asked: Asked) -> Sequence[bytes]:
        text = dns.message.from_wire((act(asked) or [b""])[0]).to_text()
        head, _, rest = text.partition(";QUESTION")
        return _wire(dns.message.from_text(f"{head};QUESTION{rest.upper()}"))
    return act_


def without_edns(act: Act, rcode: int = 1) -> Act:
    """A server that does not know EDNS: FORMERR, without the question, to who uses it."""
    def plain(asked: Asked) -> Sequence[bytes] | None:
        return act(asked) if not asked.payload else [struct.pack("!HHHHHH", asked.id, 0x8180 | rcode, 0, 0, 0, 0)]
    return plain


# ---- the server

class ScriptedDns:
    """A nameserver on one port of loopback, UDP and TCP, in a thread. A name without a script does not exist."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.asked: list[Asked] = []
        self.always: Act | None = None
        """What every question gets, whatever was scripted."""
        self._scripts: dict[tuple[str, str], list[Act]] = {}
        self._lock = threading.Lock()
        self.start()

    @property
    def nameserver(self) -> Nameserver:
        return Nameserver(self.host, self.port)

    def __str__(self) -> str:
        """As in a configuration: `127.0.0.1:5353`."""
        return str(self.nameserver)

    def says(self, name: str, rdtype: str, *acts: Act) -> None:
        """From now on, one after the other, the last for ever. Without any, the name does not exist any more."""
        with self._lock:
            self._scripts[name.lower(), rdtype] = list(acts)

    def count(self, name: str = "", rdtype: str = "", transport: str = "") -> int:
        return sum(1 for asked in tuple(self.asked) if name in ("", asked.name) and rdtype in ("", asked.type)
                   and transport in ("", asked.transport))

    def start(self) -> None:
        """Listen, again if it was stopped: on the same port."""
        self._udp, self._tcp = self._bound()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="scripted-dns", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens there any more: the next question gets an ICMP refusal."""
        if self._thread.is_alive():
            self._wake.close()
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()

    def __enter__(self) -> ScriptedDns:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bound(self) -> tuple[socket.socket, socket.socket]:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for _ in range(50):
            port = self.port or free_port()
            udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind((self.host, port))
                tcp.bind((self.host, port))
            except OSError:
                udp.close()
                tcp.close()
                continue
            tcp.listen()
            self.port = port
            return udp, tcp
        raise AssertionError(f"no port for a nameserver at {self.host}")

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in (self._udp, self._tcp, self._woken):
                selector.register(sock, selectors.EVENT_READ)
            clients: list[socket.socket] = []
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    break
                for sock in (sock for sock in ready if isinstance(sock, socket.socket)):
                    if sock is self._udp:
                        self._datagram()
                    elif sock is self._tcp:
                        client, _ = sock.accept()
                        client.settimeout(PATIENCE)
                        clients.append(client)
                        selector.register(client, selectors.EVENT_READ)
                    elif not self._stream(sock):
                        selector.unregister(sock)
                        sock.close()
        for sock in (self._udp, self._tcp, self._woken, *clients):
            sock.close()

    def _datagram(self) -> None:
        wire, peer = self._udp.recvfrom(65535)
        for answer in self._act(wire, "udp", peer[1]) or ():
            with suppress(OSError):
                self._udp.sendto(answer, peer)

    def _stream(self, client: socket.socket) -> bool:
        with suppress(OSError):
            size = client.recv(2, socket.MSG_WAITALL)
            wire = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL) if len(size) == 2 else b""
            answers = self._act(wire, "tcp", client.getpeername()[1]) if wire else None
            for answer in answers or ():
                client.sendall(struct.pack("!H", len(answer)) + answer)
            return answers is not None
        return False

    def _act(self, wire: bytes, transport: Literal["udp", "tcp"], port: int) -> Sequence[bytes] | None:
        message = dns.message.from_wire(wire)
        question = message.question[0]
        asked = Asked(question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype),
                      transport, port, message.payload if message.edns >= 0 else 0, time.monotonic(), message)
        with self._lock:
            self.asked.append(asked)
            acts = self._scripts.get((asked.name, asked.type)) or [nxdomain()]
            act = self.always or acts[0]
            # An answer that was cut is asked for once more, over TCP: that is still the same answer.
            if len(acts) > 1 and not self.always and not _cut(act, asked):
                acts.pop(0)
        return act(asked)


def _cut(act: Act, asked: Asked) -> bool:
    wires = act(asked) if asked.transport == "udp" else None
    return bool(wires) and bool(wires[0][2] & 0x02) if wires and len(wires[0]) > 2 else False


# ---- the real ones

class _Real:
    """A nameserver process with a folder of its own."""

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = host
        self.port = free_port()

    @property
    def nameserver(self) -> Nameserver:
        return Nameserver(self.host, self.port)

    def __str__(self) -> str:
        return str(self.nameserver)

    def ask(self, name: str, rdtype: str = "A") -> dns.message.Message | None:
        """What it says now; None: nothing."""
        with suppress(dns.exception.DNSException, OSError):
            return dns.query.udp(dns.message.make_query(f"{name}.", rdtype), self.host, 0.2, self.port)
        return None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _run(self, *command: str) -> None:
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _alive(self) -> None:
        assert self.process.poll() is None, (self.folder / "output.txt").read_text()


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name} (Debian: apt-get install {package})")
    return found


class Knot(_Real):
    """knotd with one zone, for which it is the authority; other names it refuses. Starts listening at once."""

    def __init__(self, folder: Path, zone: str, lines: Sequence[str], minimum: int = 1, ttl: int = 3600) -> None:
        """`lines` are those of a zone file, relative to `zone`: `web 5 A 10.0.0.1`. `ttl` and `minimum` are the SOA's."""
        super().__init__(folder)
        program = _program("knotd", "knot")
        self.zone, self.minimum, self.ttl = zone, minimum, ttl
        self._serial = 0
        self._write(lines)
        text = (f"server:\n  rundir: {folder}\n  listen: {self.host}@{self.port}\n"
                "  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
                f"database:\n  storage: {folder}\nlog:\n- target: stderr\n  any: warning\n"
                f"template:\n- id: default\n  storage: {folder}\n  zonefile-load: whole\n  journal-content: none\n"
                f"zone:\n- domain: {zone}\n  file: zone.txt\n")
        (folder / "knot.conf").write_text(text)
        self._run(program, "-c", str(folder / "knot.conf"))
        eventually(self._current, "knotd serves its zone")

    def change(self, lines: Sequence[str]) -> None:
        """The zone has only these lines from now on."""
        self._write(lines)
        self.process.send_signal(1)
        eventually(self._current, "knotd serves the changed zone")

    def _write(self, lines: Sequence[str]) -> None:
        self._serial += 1
        head = [f"$ORIGIN {self.zone}.", f"$TTL {self.ttl}",
                f"@ {self.ttl} SOA ns root {self._serial} 3600 600 86400 {self.minimum}", "@ NS ns", "ns A 127.0.0.1"]
        (self.folder / "zone.new").write_text("\n".join([*head, *lines]) + "\n")
        (self.folder / "zone.new").replace(self.folder / "zone.txt")

    def _current(self) -> bool:
        self._alive()
        answer = self.ask(self.zone, "SOA")
        return bool(answer and answer.answer and answer.answer[0][0].serial == self._serial)


class Dnsmasq(_Real):
    """dnsmasq with names of its own and no server to ask for others: `change` takes another set of hosts.

    A name of `local` that is not there is NXDOMAIN, without SOA; a name elsewhere is refused.
    """

    def __init__(self, folder: Path, local: str, hosts: Sequence[str], options: Sequence[str] = (), ttl: int = 5) -> None:
        """`hosts` as in /etc/hosts; `options` such as `cname=a.test,b.test` and `srv-host=_x._tcp.test,b.test,80`."""
        super().__init__(folder)
        program = _program("dnsmasq", "dnsmasq-base")
        self.local = local
        self._count = 0
        self._write(hosts)
        lines = [f"port={self.port}", f"listen-address={self.host}", "bind-interfaces", "no-resolv", "no-hosts",
                 f"addn-hosts={folder}/hosts", f"local=/{local}/", f"local-ttl={ttl}", "pid-file=", *options]
        (folder / "dnsmasq.conf").write_text("\n".join(lines) + "\n")
        user = ["--user=root"] if os.geteuid() == 0 else []
        self._run(program, "--keep-in-foreground", f"--conf-file={folder}/dnsmasq.conf", "--log-facility=-", *user)
        eventually(self._current, "dnsmasq answers")

    def change(self, hosts: Sequence[str]) -> None:
        self._write(hosts)
        self.process.send_signal(1)
        eventually(self._current, "dnsmasq has the changed hosts")

    def _write(self, hosts: Sequence[str]) -> None:
        self._count += 1
        (self.folder / "hosts").write_text("\n".join([*hosts, f"127.0.0.1 version{self._count}.{self.local}"]) + "\n")

    def _current(self) -> bool:
        self._alive()
        answer = self.ask(f"version{self._count}.{self.local}")
        return bool(answer and answer.answer)
