"""What the samples mean: medians, spread, ratios by pairs; the table (Markdown) and the raw figures (JSON).

A ratio compares edgeproxy with a peer in the same round, because the machine's speed drifts between rounds; the
median of these ratios is shown. A ratio below 1 says that edgeproxy needs less CPU.
"""
from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.peers.extras import Growth, Start
from bench.peers.load import Sample, Workload

# What the project wants to reach: the ratio to each peer, by workload.
# Where a peer has two rows, the goal stands for both.
GOALS: dict[str, dict[str, float]] = {
    "h1-keepalive": {"haproxy": 1.0, "nginx": 0.7, "envoy": 0.35, "traefik": 0.35, "caddy": 0.35},
    "h1-close": {"nginx": 0.95, "haproxy": 1.25},
    "h1-tls": {"nginx": 1.1, "haproxy": 1.0},
    "tls-handshake": {"nginx": 1.1},
    "h2-tls": {"nginx": 0.9},
    "l7-1MiB": {"nginx": 0.8, "haproxy": 1.0},
    "l4-keepalive": {"haproxy": 1.0},
    "l4-close": {"haproxy": 1.3},
    "l4-1MiB": {"haproxy": 0.8},
}
GOAL_START = 0.5
GOAL_MEMORY = 12 * 1024
GOAL_MEMORY_TLS = 60 * 1024
GOAL_GROWTH = 1.1


@dataclass(slots=True)
class Row:
    """One proxy in one workload. Samples are in the order of the rounds; they end where `fault` began."""

    key: str
    title: str
    log: str
    samples: list[Sample] = field(default_factory=list)
    fault: str = ""

    @property
    def cost(self) -> float:
        return statistics.median(sample.cost for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        costs = [sample.cost for sample in self.samples]
        return min(costs), max(costs)

    @property
    def errors(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for sample in self.samples:
            for name, count in sample.errors.items():
                total[name] = total.get(name, 0) + count
        return total

    def middle(self, name: str) -> float:
        return statistics.median(float(getattr(sample, name)) for sample in self.samples)


@dataclass(slots=True)
class Table:
    """One workload with its rows."""

    workload: Workload
    rows: list[Row] = field(default_factory=list)

    def row(self, key: str) -> Row | None:
        return next((row for row in self.rows if row.key == key), None)

    def ratio(self, reference: str, key: str) -> float | None:
        """reference / key, round by round, the median of it."""
        ours, theirs = self.row(reference), self.row(key)
        if ours is None or theirs is None or reference == key:
            return None
        pairs = [a.cost / b.cost for a, b in zip(ours.samples, theirs.samples, strict=False)]
        return statistics.median(pairs) if pairs else None


@dataclass(slots=True)
class Report:
    when: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    reference: str
    missing: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    starts: dict[str, Start] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def strangers(self) -> list[float]:
        """For each run, the part of the proxy's CPU that others had; in order of size."""
        rows = [row.samples for table in self.tables for row in table.rows]
        rows += [case.samples for case in self.growth]
        return sorted(sample.strangers for samples in rows for sample in samples)


def goal_for(workload: str, key: str) -> float | None:
    return GOALS.get(workload, {}).get(key.partition("-")[0])


def grown(report: Report) -> dict[str, float]:
    """For each grown case: its cost next to the small one, in the same round, the median."""
    cases = {case.key: case for case in report.growth}
    found: dict[str, float] = {}
    for case in report.growth:
        small = cases.get(case.base)
        if small is None or case is small:
            continue
        pairs = [a.cost / b.cost for a, b in zip(case.samples, small.samples, strict=False)]
        if pairs:
            found[case.key] = statistics.median(pairs)
    return found


def turns(report: Report) -> str:
    rounds = int(report.settings["rounds"])
    return f"{rounds} {'round' if rounds == 1 else 'rounds'} of {report.settings['seconds']} s, in turns"


# --- Markdown -------------------------------------------------------------------------------------------------------

def short(value: float) -> str:
    """Three figures that matter, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def to_markdown(report: Report, picture: str) -> str:
    parts = [_head(report, picture)]
    parts += [_workload(report, table) for table in report.tables]
    if report.starts:
        parts.append(_starts(report))
    if report.growth:
        parts.append(_growth(report))
    parts.append(_foot(report))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(report: Report, picture: str) -> str:
    name = report.titles.get(report.reference, report.reference)
    machine, rounds = report.machine, turns(report)
    image = f"![CPU time for a unit of work, {name} and its peers]({picture})\n\n" if picture else ""
    return f"""# {name} beside other proxies

{image}{report.when} · {machine["cpu"]}, {machine["cpus"]} CPUs · {machine["kernel"]} · {rounds}.

The figure of merit is CPU time (user and system of all the proxy's processes) for a unit of work: median, and lowest to
highest in brackets. “Ratio” is {name}'s CPU time divided by that row's, compared within each round: below 1, {name}
needs less. Latencies are those under the full load of a closed loop. How it is measured and what is fair:
[README](../README.md)."""


def _workload(report: Report, table: Table) -> str:
    workload = table.workload
    unit = workload.unit
    units = unit if unit == "MiB" else f"{unit}s"
    lines = [f"## {workload.title} (`{workload.key}`)", "",
             f"| proxy | access log | CPU µs per {unit} | ratio | goal | {units}/s | p50 ms | p99 ms | its CPU busy |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    remarks = []
    for row in table.rows:
        lines.append(_row(report, table, row))
        if row.fault:
            remarks.append(f"- {row.title}: {row.fault}")
        if row.errors:
            said = ", ".join(f"{count} {name}" for name, count in row.errors.items())
            remarks.append(f"- {row.title}: **errors under load** ({said}); its figures are not to be trusted")
    return "\n".join(lines + ([""] + remarks if remarks else []))


def _row(report: Report, table: Table, row: Row) -> str:
    title = f"**{row.title}**" if row.key == report.reference else row.title
    if not row.samples:
        return f"| {title} | {row.log} | not measured | | | | | | |"
    low, high = row.spread
    ratio, goal = table.ratio(report.reference, row.key), goal_for(table.workload.key, row.key)
    told = f"{ratio:.2f}" if ratio is not None else "–"
    wanted = "" if goal is None or ratio is None else f"≤ {goal:g} {'✓' if ratio <= goal else '✗'}"
    return (f"| {title} | {row.log} | {short(row.cost)} ({short(low)}–{short(high)}) | {told} | {wanted} | "
            f"{short(row.middle('rate'))} | {row.middle('p50_us') / 1000:.2f} | {row.middle('p99_us') / 1000:.2f} | "
            f"{row.middle('busy'):.0%} |")


def _starts(report: Report) -> str:
    lines = ["## Start, and memory of idle connections", "",
             "Start: from the process's start to the first answered request, median (goal for edgeproxy: "
             f"≤ {GOAL_START} s). Memory: PSS of all its processes; each idle connection has made one request "
             f"(goal: ≤ {GOAL_MEMORY // 1024} KiB, over TLS ≤ {GOAL_MEMORY_TLS // 1024} KiB). Kernel memory of sockets "
             "is not in it and is the same for all.", "",
             "| proxy | start s | memory MiB | idle connections | KiB for each | over TLS | |",
             "|---|--:|--:|--:|--:|--:|---|"]
    for key, start in report.starts.items():
        each = f"{start.per_connection / 1024:.1f}" if start.idle else "–"
        tls = f"{start.per_tls / 1024:.1f}" if start.per_tls else "–"
        lines.append(f"| {report.titles.get(key, key)} | {f'{start.median:.2f}' if start.seconds else '–'} | "
                     f"{start.resident / 2**20:.1f} | {start.idle} | {each} | {tls} | {start.fault} |")
    return "\n".join(lines)


def _growth(report: Report) -> str:
    ratios = grown(report)
    lines = ["## Growth", "",
             "The same requests (to 10 000 hosts in turn), and the same handshakes (with 10 000 names in turn), "
             f"against edgeproxy with more to carry (goal: ≤ {GOAL_GROWTH} times the small case).", "",
             "| edgeproxy with | CPU µs per request or handshake | times the small case | start s | |",
             "|---|--:|--:|--:|---|"]
    for case in report.growth:
        cost = short(statistics.median(sample.cost for sample in case.samples)) if case.samples else "not measured"
        ratio = f"{ratios[case.key]:.2f}" if case.key in ratios else ""
        start = f"{case.start:.2f}" if case.start else "–"
        lines.append(f"| {case.title} | {cost} | {ratio} | {start} | {case.fault} |")
    return "\n".join(lines)


def _foot(report: Report) -> str:
    seen = report.strangers() or [0.0]
    lines = ["## Versions and remarks", ""]
    lines += [f"- {name} {version}" for name, version in report.versions.items()]
    lines += [f"- not measured: {name}: {why}" for name, why in report.missing.items()]
    lines.append(f"- others had {statistics.median(seen):.1%} of the proxy's CPU during the median run, "
                 f"{seen[-1]:.1%} during the worst")
    return "\n".join(lines + [f"- {note}" for note in report.notes])


# --- JSON -----------------------------------------------------------------------------------------------------------

def _numbers(sample: Sample) -> dict[str, Any]:
    return asdict(sample) | {"cost_us": sample.cost}


def to_json(report: Report) -> dict[str, Any]:
    tables = [{"workload": asdict(table.workload), "rows": [
        {"key": row.key, "title": row.title, "log": row.log, "fault": row.fault, "errors": row.errors,
         "cost_us": row.cost if row.samples else None, "ratio": table.ratio(report.reference, row.key),
         "goal": goal_for(table.workload.key, row.key), "samples": [_numbers(sample) for sample in row.samples]}
        for row in table.rows]} for table in report.tables]
    growth = [{"key": case.key, "title": case.title, "start": case.start, "fault": case.fault,
               "samples": [_numbers(sample) for sample in case.samples]} for case in report.growth]
    return {"when": report.when, "machine": report.machine, "versions": report.versions, "settings": report.settings,
            "reference": report.reference, "missing": report.missing, "tables": tables,
            "starts": {key: asdict(start) for key, start in report.starts.items()}, "growth": growth,
            "growth_ratios": grown(report), "notes": report.notes}
