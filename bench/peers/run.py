"""Measure edgeproxy beside its peers: `make bench`, or `python bench/peers/run.py --help`.

Starts a backend and every proxy on loopback, checks that each answers rightly, then lets them take turns under the same
load, and writes a table, the raw figures and a picture. Only what it started is stopped, at the end or at ctrl-C.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.peers import extras, load, machine, picture, report  # noqa: E402
from bench.peers.extras import Site  # noqa: E402
from bench.peers.handshakes import HOST  # noqa: E402
from bench.peers.load import WORKLOADS, LoadError, Tools, Workload  # noqa: E402
from bench.peers.processes import Processes, Running  # noqa: E402
from bench.peers.proxies import Launch, Place, Proxy, backend_command, every_proxy  # noqa: E402
from bench.peers.report import Report, Row, Table  # noqa: E402
from tests.e2e.certs import Authority  # noqa: E402

RESULTS = ROOT / "bench" / "results"
REQUIREMENTS = ROOT / "bench" / "requirements.txt"
EXTRAS = ("start", "growth")
DESCRIPTORS = 65536


@dataclass(slots=True)
class Contestant:
    """A proxy that runs now."""

    proxy: Proxy
    program: str
    place: Place
    launch: Launch
    running: Running


@dataclass(slots=True)
class Plan:
    """What the command line asked for."""

    proxies: list[Proxy]
    workloads: list[Workload]
    extras: list[str]
    rounds: int
    seconds: int
    limit: float
    reference: str
    idle: int
    starts: int
    name: str
    keep: bool
    began: float

    @property
    def over(self) -> bool:
        """Whether no further round may begin; the small measurements need about a tenth of the time."""
        return time.monotonic() - self.began > self.limit * (0.88 if self.extras else 1.0)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = ", ".join(proxy.key for proxy in every_proxy())
    works = ", ".join([*(workload.key for workload in WORKLOADS), *EXTRAS])
    parser = argparse.ArgumentParser(prog="bench/peers/run.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, help="turns of every proxy in every workload (5; 2 with --quick)")
    parser.add_argument("--seconds", type=int, help="length of one turn (2; 1 with --quick)")
    parser.add_argument("--only", metavar="A,B", help=f"these proxies: {keys}")
    parser.add_argument("--workloads", metavar="A,B", help=f"these workloads: {works}")
    parser.add_argument("--quick", action="store_true", help="four proxies, short turns: under three minutes")
    parser.add_argument("--pure", action="store_true", help="a row for edgeproxy without its native engine too")
    parser.add_argument("--reference", default="edgeproxy", help="the row that ratios refer to (edgeproxy)")
    parser.add_argument("--idle", type=int, help="idle connections to hold (10000; 2000 with --quick)")
    parser.add_argument("--limit", type=float, help="seconds after which no new round begins (900; 150 with --quick)")
    parser.add_argument("--name", help="name of the result files (latest; quick; partial for a selection)")
    parser.add_argument("--install", action="store_true", help="first install the peers of bench/requirements.txt")
    parser.add_argument("--keep", action="store_true", help="keep the folder with configurations and logs")
    return parser.parse_args(arguments)


def _choose(wanted: str, known: Sequence[str], what: str) -> list[str]:
    names = [name for name in wanted.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no {what} named {', '.join(unknown)}; there are: {', '.join(known)}")
    return names


def make_plan(options: argparse.Namespace) -> Plan:
    quick: bool = options.quick
    proxies = every_proxy()
    if options.only:
        chosen = _choose(options.only, [proxy.key for proxy in proxies], "proxy")
    elif quick:
        chosen = ["edgeproxy", "nginx", "haproxy", "envoy"]
    else:
        chosen = [proxy.key for proxy in proxies if proxy.usual]
    if options.pure:
        chosen.append("edgeproxy-pure")
    proxies = [proxy for proxy in proxies if proxy.key in chosen]
    works = [workload.key for workload in WORKLOADS]
    asked = _choose(options.workloads, [*works, *EXTRAS], "workload") if options.workloads else [*works, *EXTRAS]
    part = bool(options.only or options.workloads)
    return Plan(
        proxies=proxies,
        workloads=[workload for workload in WORKLOADS if workload.key in asked],
        extras=[name for name in EXTRAS if name in asked],
        rounds=options.rounds or (2 if quick else 5),
        seconds=options.seconds or (1 if quick else 2),
        limit=options.limit or (150 if quick else 900),
        reference=options.reference,
        idle=options.idle or (2000 if quick else 10000),
        starts=1 if quick else 3,
        name=options.name or ("partial" if part else "quick" if quick else "latest"),
        keep=options.keep,
        began=time.monotonic())


# --- the contestants ------------------------------------------------------------------------------------------------

def start_all(site: Site, plan: Plan, result: Report) -> list[Contestant]:
    """Every proxy that is here and answers; the others are named in the report with the reason."""
    contestants = []
    for proxy in plan.proxies:
        program = proxy.find()
        if program is None:
            why = "not built here" if proxy.ours else "not installed (bench/README.md says where from)"
            result.missing[proxy.title] = why
            say(f"{proxy.title}: {why}")
            continue
        place = site.place(proxy.key)
        launch = proxy.launch(program, place)
        running = site.start(place, launch)
        try:
            load.wait_for_answer(running, place.http)
        except LoadError as error:
            result.missing[proxy.title] = str(error)
            say(f"{proxy.title}: {error}")
            site.processes.stop(running)
            continue
        contestants.append(Contestant(proxy, program, place, launch, running))
        result.titles[proxy.key] = proxy.title
        result.versions[proxy.title] = proxy.version(program)
    return contestants


def _entered(plan: Plan, contestants: list[Contestant], workload: Workload) -> list[Contestant]:
    """Rows with the log off are left out where a log makes no difference; so are proxies without a tcp listener."""
    return [one for one in contestants
            if (workload.quiet_rows or not one.proxy.key.endswith("-nolog"))
            and (workload.listener == "http" or (workload.listener == "tls" and one.launch.tls)
                 or (workload.listener == "tcp" and one.launch.tcp and one.proxy.tcp_log is not None))]


def run_workload(site: Site, plan: Plan, contestants: list[Contestant], workload: Workload) -> Table:
    """Warm up and check each, then all of them in turns, as many rounds as were asked for."""
    script = load.write_script(site.folder, "headers", *(["close"] if workload.close else []))
    entered = _entered(plan, contestants, workload)
    table = Table(workload)
    for one in entered:
        log = one.proxy.log if workload.listener != "tcp" else one.proxy.tcp_log or ""
        row = Row(one.proxy.key, one.proxy.title, log)
        table.rows.append(row)
        row.fault = site.tools.missing(workload) or load.check(_port(one, workload), workload) or ""
        if not row.fault:
            _turn(site, one, workload, script, 1, row, keep=False)
    for number in range(plan.rounds):
        if plan.over:
            say(f"  out of time after {number} rounds")
            break
        for one, row in [*zip(entered, table.rows, strict=True)]:
            if not row.fault:
                _turn(site, one, workload, script, plan.seconds, row, keep=True)
    for row in table.rows:
        told = f"{row.cost:8.2f} µs/{workload.unit}" if row.samples else "not measured"
        say(f"  {row.title:22} {told} {row.fault}")
    return table


def _port(one: Contestant, workload: Workload) -> int:
    return {"http": one.place.http, "tcp": one.place.tcp, "tls": one.place.tls}[workload.listener]


def _turn(site: Site, one: Contestant, workload: Workload, script: Path, seconds: int, row: Row, *, keep: bool) -> None:
    try:
        sample = load.measure(site.tools, script, one.running, _port(one, workload), workload, seconds=seconds,
                              cpus=site.cpus, log=one.launch.log)
    except LoadError as error:
        row.fault = str(error)
        return
    if keep:
        row.samples.append(sample)


# --- the whole ------------------------------------------------------------------------------------------------------

def measure(plan: Plan, folder: Path, tools: Tools) -> Report:
    cpus = machine.choose_cpus()
    files = machine.raise_descriptors(DESCRIPTORS)
    os.sched_setaffinity(0, {cpus.load})
    result = Report(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), machine.describe(), {},
                    {"rounds": plan.rounds, "seconds": plan.seconds, "descriptors": files}, plan.reference)
    if cpus.shared:
        result.notes.append("only one CPU: the load shared it with the proxies, throughput and latency tell nothing")
    ports = machine.Ports(random.Random())
    backends = (ports.take(), ports.take(), ports.take())

    authority = Authority(folder / "certificates")
    pair = authority.server(HOST, "localhost", "127.0.0.1", days=90)

    def place(name: str) -> Place:
        return Place(name, folder, ports.take(), ports.take(), ports.take(), pair.cert, pair.key, backends, files)

    with Processes() as processes:
        site = Site(processes, cpus, folder, tools, place, authority)
        behind = place("backend")
        backend = processes.start("backend", backend_command(behind, folder / "www"), cpu=cpus.load, folder=folder)
        for port in backends:
            load.wait_for_answer(backend, port)
        contestants = start_all(site, plan, result)
        for workload in plan.workloads:
            say(f"{workload.key}: {workload.title}")
            result.tables.append(run_workload(site, plan, contestants, workload))
        for one in contestants:
            processes.stop(one.running)
        measure_extras(site, plan, contestants, result)
    remark(result)
    return result


def measure_extras(site: Site, plan: Plan, contestants: list[Contestant], result: Report) -> None:
    if "start" in plan.extras:
        say("start: start-up, and memory of idle connections")
        for one in contestants:
            if one.proxy.key.endswith("-nolog"):
                continue
            start = extras.start_and_idle(site, one.proxy, one.program, starts=plan.starts, connections=plan.idle)
            result.starts[one.proxy.key] = start
            each = f"{start.per_connection / 1024:.1f} KiB a connection, {start.per_tls / 1024:.1f} over TLS"
            say(f"  {one.proxy.title:22} {start.median:.2f} s, {each} {start.fault}")
    ours = next((one for one in contestants if one.proxy.key == "edgeproxy"), None)
    if "growth" in plan.extras and ours is not None:
        say("growth: edgeproxy with more of everything")
        result.growth = extras.growth(site, ours.program, rounds=plan.rounds, seconds=1, idle=plan.idle)
        for key, ratio in report.grown(result).items():
            say(f"  {key:22} {ratio:.2f} times the small case")


def remark(result: Report) -> None:
    """What a reader has to know before believing the figures."""
    disturbed = [part for part in result.strangers() if part > 0.1]
    if len(disturbed) > len(result.strangers()) / 10:
        result.notes.append("the machine was not quiet: others had more than 10% of the proxy's CPU in "
                            f"{len(disturbed)} runs; compare ratios only, or measure again")
    if "pure" in result.versions.get("edgeproxy", ""):
        result.notes.append("edgeproxy ran without its native engine: it was not built")
    for table in result.tables:
        rounds = {len(row.samples) for row in table.rows if not row.fault}
        result.notes += [f"{table.workload.key}: the log of {row.title} stayed empty" for row in table.rows
                         if table.workload.quiet_rows and row.samples and not row.log.startswith(("off", "none"))
                         and not any(sample.logged for sample in row.samples)]
        if rounds and max(rounds) < int(result.settings["rounds"]):
            result.notes.append(f"{table.workload.key}: only {max(rounds)} rounds, the time was over")


def write(result: Report, name: str) -> list[Path]:
    RESULTS.mkdir(parents=True, exist_ok=True)
    drawn = any(row.samples for table in result.tables for row in table.rows)
    files = {".md": report.to_markdown(result, f"{name}.svg" if drawn else ""),
             ".json": json.dumps(report.to_json(result), indent=1) + "\n"}
    if drawn:
        files[".svg"] = picture.draw(result)
    paths = []
    (RESULTS / f"{name}.svg").unlink(missing_ok=True)   # never an old picture beside new figures
    for suffix, text in files.items():
        path = RESULTS / f"{name}{suffix}"
        path.write_text(text)
        paths.append(path)
    return paths


def _stop_at_sigterm(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.install:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)], check=True)
    wrk = shutil.which("wrk")
    if wrk is None:
        say("wrk is not installed (apt install wrk); nothing can be measured without it")
        return 1
    plan = make_plan(options)
    signal.signal(signal.SIGTERM, _stop_at_sigterm)
    folder = Path(tempfile.mkdtemp(prefix="edgeproxy-bench-"))
    folder.chmod(0o755)   # workers of a peer may run as another user
    try:
        result = measure(plan, folder, Tools(wrk, shutil.which("h2load"), folder))
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        return 130
    except (LoadError, RuntimeError) as error:
        say(f"the backend: {error}")
        return 1
    finally:
        if plan.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for path in write(result, plan.name):
        say(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
