"""The picture: an SVG written by hand, a panel for each workload, a bar for each proxy, for light and dark pages.

Colours are classes, so one `prefers-color-scheme` rule turns them; the card has a ground of its own, so the picture is
readable even where the page's colour and the reader's preference differ.
"""
from __future__ import annotations

from xml.sax.saxutils import escape

from bench.peers.report import Report, Row, Table, short, turns

WIDTH = 920
MARGIN = 20
GAP = 24
ROW = 22
NAMES = 120
"""Width of the column of names; the bars begin behind it."""
FIGURES = 54
"""Width of the column of ratios at the right."""
HEAD = 74
PANEL_HEAD = 46
FOOT = 34

STYLE = """
  text { font-size: 12px; fill: #1f2328; }
  text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, "DejaVu Sans", sans-serif; }
  .ground { fill: #ffffff; stroke: #d1d9e0; }
  .title { font-size: 17px; font-weight: 600; }
  .panel { font-size: 13px; font-weight: 600; }
  .quiet { fill: #59636e; font-size: 11px; }
  .ours-text { font-weight: 600; }
  .less { fill: #1a7f37; font-weight: 600; }
  .more { fill: #b35900; font-weight: 600; }
  .ours { fill: #0969da; }
  .peer { fill: #a9b4c0; }
  .nolog { fill: #d5dbe1; }
  .spread { stroke: #3d444d; stroke-width: 1.2; opacity: .55; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ground { fill: #0d1117; stroke: #3d444d; }
    .quiet { fill: #9198a1; }
    .less { fill: #3fb950; }
    .more { fill: #e3a04f; }
    .ours { fill: #4493f8; }
    .peer { fill: #5b6672; }
    .nolog { fill: #3a424c; }
    .spread { stroke: #e6edf3; }
  }"""


def draw(report: Report) -> str:
    """The whole picture as text."""
    tables = [table for table in report.tables if any(row.samples for row in table.rows)]
    column = (WIDTH - 2 * MARGIN - GAP) / 2
    body: list[str] = []
    top = float(HEAD)
    for left in range(0, len(tables), 2):
        pair = tables[left:left + 2]
        for place, table in enumerate(pair):
            body += _panel(report, table, MARGIN + place * (column + GAP), top, column)
        top += max(PANEL_HEAD + ROW * len(_shown(table)) for table in pair) + GAP
    height = top + FOOT - GAP
    name = escape(report.titles.get(report.reference, report.reference))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(_spoken(tables))}">',
        f"<style>{STYLE}\n</style>",
        f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8"/>',
        f'<text class="title" x="{MARGIN}" y="34">CPU time for a unit of work, on one core</text>',
        f'<text class="quiet" x="{MARGIN}" y="54">Shorter is better. Bars: median, line: lowest to highest round. '
        f'At the right: {name}’s CPU time ÷ that proxy’s, by rounds; below 1, {name} needs less.</text>',
        *body,
        f'<text class="quiet" x="{MARGIN}" y="{height - 14:.0f}">{escape(_source(report))}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _shown(table: Table) -> list[Row]:
    return [row for row in table.rows if row.samples]


def _panel(report: Report, table: Table, x: float, y: float, width: float) -> list[str]:
    rows = _shown(table)
    longest = max(row.spread[1] for row in rows)
    room = width - NAMES - FIGURES - 44   # 44: the figure behind the longest bar
    name = escape(report.titles.get(report.reference, report.reference))
    lines = [f'<text class="panel" x="{x:.0f}" y="{y + 14:.0f}">{escape(table.workload.title)}</text>',
             f'<text class="quiet" x="{x:.0f}" y="{y + 31:.0f}">µs per {table.workload.unit}</text>']
    if any(table.ratio(report.reference, row.key) is not None for row in rows):
        lines.append(f'<text class="quiet" x="{x + width:.0f}" y="{y + 31:.0f}" text-anchor="end">{name} ÷ it</text>')
    for number, row in enumerate(rows):
        lines += _bar(report, table, row, x, y + PANEL_HEAD + ROW * number, width, room / longest)
    return lines


def _bar(report: Report, table: Table, row: Row, x: float, y: float, width: float, scale: float) -> list[str]:
    ours = row.key == report.reference
    kind = "ours" if ours else "nolog" if row.key.endswith("-nolog") else "peer"
    left, length = x + NAMES, row.cost * scale
    low, high = (left + cost * scale for cost in row.spread)
    middle, base = y + ROW / 2 - 2, y + ROW / 2 + 2
    strong = ' class="ours-text"' if ours else ""
    lines = [
        f'<text{strong} x="{left - 8:.1f}" y="{base:.1f}" text-anchor="end">{escape(row.title)}</text>',
        f'<rect class="{kind}" x="{left:.1f}" y="{y + 1:.1f}" width="{max(length, 1):.1f}" height="{ROW - 6}" rx="2"/>',
        f'<line class="spread" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>',
        f'<text{strong} x="{max(left + length, high) + 6:.1f}" y="{base:.1f}">'
        f'{short(row.cost)}{"*" if row.errors else ""}</text>',
    ]
    ratio = table.ratio(report.reference, row.key)
    if ratio is not None:
        lines.append(f'<text class="{"less" if ratio <= 1 else "more"}" x="{x + width:.1f}" y="{base:.1f}" '
                     f'text-anchor="end">{ratio:.2f}</text>')
    return lines


def _source(report: Report) -> str:
    said = f"{report.when[:10]} · {report.machine['cpu']} · {turns(report)} · one worker each"
    wrong = any(row.errors for table in report.tables for row in table.rows)
    return said + (" · * errors under load" if wrong else "")


def _spoken(tables: list[Table]) -> str:
    """The picture in words, for those who do not see it."""
    parts = []
    for table in tables:
        bars = ", ".join(f"{row.title} {short(row.cost)}" for row in _shown(table))
        parts.append(f"{table.workload.title}, µs per {table.workload.unit}: {bars}")
    return f"CPU time. {'. '.join(parts)}"
