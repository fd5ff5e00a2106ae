"""A bench as one HTML file that needs nothing else: the answer, whole steps, charts, and every level."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from os import PathLike
from string import Template

from fame_accel.bench.charts import Image, images
from fame_accel.bench.rows import Row
from fame_accel.bench.summary import BACKENDS, LABELS, OURS, Summary, groups, number, operation_told, ran, steps, wrong
from fame_accel.bench.wording import EXPLAINED, answer, cells, in_mib, not_run, remarks, step_cells
from fame_accel.media.files import atomic_write

_TITLES = ("provider", "milliseconds", "peak", "x as fast as eager", "x of plain attention", "error of allowed")
_STEP_TITLES = ("provider", "time", "largest peak", "x as fast as eager", "x of plain attention")
_FIGURE = re.compile(r"[\d.]+ (?:times|s|ms|µs|[KMGT]?i?B)\b")  # not to be broken between lines

_STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1a1a1a; --soft: #595f69; --line: #d9dce1;
  --ours: #e3f0f9; --wrong: #a83200; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1e2126; --ink: #e8eaed; --soft: #a9b0ba;
  --line: #3a3f47; --ours: #12344a; --wrong: #ff9a66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.25rem, 1rem + 1.2vw, 1.7rem); line-height: 1.35; margin: .25rem 0 .75rem; }
header span { white-space: nowrap; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .75rem; }
.soft { color: var(--soft); }
p { margin: .25rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .5rem .75rem;
  margin: 0 0 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0 .5rem; }
th, td { text-align: right; padding: .4rem .5rem; border-top: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 400; border-top: 0; }
th:first-child { text-align: left; }
.ours { background: var(--ours); }
.wrong td, .wrong th { color: var(--wrong); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  align-items: start; }
figure:last-child:nth-child(odd) { grid-column: 1 / -1; }
figure { margin: 0; background: #fff; color: #1a1a1a; border: 1px solid var(--line); border-radius: 10px;
  padding: .6rem .4rem; }
figcaption { font-weight: 600; padding: 0 .4rem .4rem; }
figure img { display: block; width: 100%; max-width: 33rem; height: auto; margin: 0 auto; }
ul { padding-left: 1.2rem; margin: .5rem 0; }
pre { white-space: pre-wrap; margin: 0; font: .9rem/1.5 ui-monospace, monospace; }
@media (max-width: 40rem) {
  main { padding: 1rem .75rem 2rem; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, caption { display: block; }
  tbody tr { display: grid; grid-template-columns: repeat(3, 1fr); gap: .2rem .6rem; align-items: end;
    border-top: 1px solid var(--line); padding: .5rem; margin: 0 -.5rem; }
  th, td { border: 0; padding: 0; text-align: left; white-space: normal; }
  tbody th { grid-column: 1 / -1; }
  th + td { grid-column: span 2; }
  td::before { content: attr(data-title); display: block; color: var(--soft); font-size: .75rem; line-height: 1.3; }
  .none { display: none; }
}
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>fame-accel bench: $heading</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
<header>
<p class="soft">fame-accel bench: $heading</p>
<h1>$answer</h1>
$more
<p class="soft">$machine</p>
</header>
$sections
</main>
</body>
</html>
""")


def write_html(path: str | PathLike[str], summary: Summary) -> None:
    """ImportError where matplotlib is missing."""
    sections = [*_steps(summary), *_charts(images(summary)), *_levels(summary)]
    for title, lines in (("Not timed", not_run(summary)), ("Remarks", remarks(summary)), ("Notes", summary.notes)):
        if lines:
            items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
            sections.append(f"<h2>{title}</h2>\n<ul>\n{items}\n</ul>")
    sections.append(f'<h2>Made by</h2>\n<div class="card"><pre><code>{escape(summary.command)}</code></pre></div>')
    first, *more = (_FIGURE.sub(r"<span>\g<0></span>", escape(sentence)) for sentence in answer(summary))
    page = _PAGE.substitute(
        style=_STYLE, heading=escape(summary.heading), machine=escape(summary.machine),
        answer=first, more=f"<p>{' '.join(more)}</p>" if more else "",
        sections="\n".join(sections),
    )  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _steps(summary: Summary) -> list[str]:
    found = []
    for step in steps(summary):
        if rows := step_cells(step):
            lines = [
                ("ours" if name == LABELS[OURS] else "", (name, took, peak, fast, plain))
                for name, took, fast, plain, peak in rows
            ]
            found.append(_table(f"Attention of {step.title}", _STEP_TITLES, lines))
    return ["<h2>One whole step</h2>", *found] if found else []


def _charts(drawn: Sequence[Image]) -> list[str]:
    if not drawn:
        return []
    figures = []
    for image in drawn:
        data = base64.b64encode(image.svg).decode("ascii")
        figures.append(
            f"<figure><figcaption>{escape(image.title)}</figcaption>"
            f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(image.alt)}"></figure>'
        )
    return ["<h2>Charts</h2>", '<div class="charts">', *figures, "</div>"]


def _levels(summary: Summary) -> list[str]:
    """A table of one layer at each level and operation, of providers that have a time or are wrong."""
    found = []
    for (shape, operation), group in groups(summary.rows).items():
        rows = [(_kind(row), _line(name, row)) for name, row in group.items() if ran(row) or wrong(row)]
        if rows:
            keys = next(iter(group.values())).get("keys", "")
            layers = summary.layers.get(shape)
            caption = f"{shape}, {operation_told(operation)}, {keys} keys"
            caption += f", {layers} of the step's layers" if layers else ""
            found.append(_table(caption, _TITLES, rows))
    return ["<h2>One layer at each level</h2>", *found, f'<p class="soft">{escape(EXPLAINED)}</p>'] if found else []


def _kind(row: Row) -> str:
    return "wrong" if wrong(row) else "ours" if row["provider"] in BACKENDS else ""


def _line(name: str, row: Row) -> list[str]:
    milliseconds, fast, plain, peak, error = cells(row)
    if peak != "-":
        peak = in_mib(number(row, "peak_mib"))
    return [LABELS.get(name, name), milliseconds, peak, fast, plain, error]


def _table(caption: str, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Rows of (class, cells); a column without a value in any row is left out.

    With roles, since on a phone rows are laid out as cards, and browsers then forget that they are rows.
    """
    kept = [place for place in range(len(titles)) if any(line[place] != "-" for _, line in rows)]
    head = "".join(f'<th scope="col" role="columnheader">{escape(titles[place])}</th>' for place in kept)
    body = []
    for kind, line in rows:
        told = [f'<th scope="row" role="rowheader">{escape(line[0])}</th>']
        for place in kept[1:]:
            empty = _class("none" if line[place] == "-" else "")
            told.append(f'<td role="cell"{empty} data-title="{escape(titles[place])}">{escape(line[place])}</td>')
        body.append(f'<tr role="row"{_class(kind)}>{"".join(told)}</tr>')
    return "\n".join((
        f'<div class="card"><table role="table"><caption>{escape(caption)}</caption>',
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>',
        '<tbody role="rowgroup">', *body, "</tbody></table></div>",
    ))  # fmt: skip


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
