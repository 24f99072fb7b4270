"""A drawing and its report as one page that needs nothing else, not even a network."""

from __future__ import annotations

from html import escape

from txgraph.render.drawing import Drawing
from txgraph.render.style import FONT, LOOKS, QUIET
from txgraph.render.summary import Change

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font-family: {font}; margin: 1em 2em; }}
#drawing {{ border: 1px solid #bbb; height: 85vh; overflow: hidden; cursor: grab; touch-action: none; }}
#drawing svg {{ width: 100%; height: 100%; }}
#drawing .faded {{ opacity: 0.25; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; }}
tr[data-rewrite] {{ cursor: pointer; }}
pre {{ overflow-x: auto; background: #f6f6f6; padding: 1em; }}
.quiet {{ color: {quiet}; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{before} operators before, {after} after.
<span class="quiet">Wheel: zoom. Drag: move. Double click: all of it. Point at a fused node: its counterpart.</span></p>
<div id="drawing">
{svg}
</div>
<h2>Changes</h2>
<table>
<tr><th></th><th>times</th><th>pass</th><th>what</th><th>where</th></tr>
{changes}
</table>
<h2>Report</h2>
<pre>{report}</pre>
<script>
{script}
</script>
</body>
</html>
"""

_SCRIPT = """
const svg = document.querySelector("#drawing svg");
const home = svg.getAttribute("viewBox").split(/[ ,]+/).map(Number);
let view = home.slice();
let from = null;
const show = () => svg.setAttribute("viewBox", view.join(" "));
const at = (event) => {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [point.x, point.y];
};
svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const factor = Math.exp(event.deltaY * 0.0015), [x, y] = at(event);
  view = [x + (view[0] - x) * factor, y + (view[1] - y) * factor, view[2] * factor, view[3] * factor];
  show();
}, { passive: false });
svg.addEventListener("pointerdown", (event) => { from = at(event); });
window.addEventListener("pointerup", () => { from = null; });
window.addEventListener("pointermove", (event) => {
  if (!from) return;
  const [x, y] = at(event);
  view[0] += from[0] - x;
  view[1] += from[1] - y;
  show();
});
svg.addEventListener("dblclick", () => { view = home.slice(); show(); });
const nodes = [...svg.querySelectorAll("g.node")];
const light = (name) => nodes.forEach((n) => n.classList.toggle("faded", !!name && !n.classList.contains(name)));
for (const node of nodes) {
  const name = [...node.classList].find((c) => /^rewrite\\d+$/.test(c));
  if (name) {
    node.addEventListener("mouseenter", () => light(name));
    node.addEventListener("mouseleave", () => light(""));
  }
}
for (const row of document.querySelectorAll("tr[data-rewrite]")) {
  row.addEventListener("mouseenter", () => light(row.dataset.rewrite));
  row.addEventListener("mouseleave", () => light(""));
}
"""


def to_html(svg: str, drawing: Drawing, title: str, report: str) -> str:
    """The page: the drawing to zoom and move, every change as a table, the report."""
    return _PAGE.format(
        title=escape(title),
        font=FONT,
        quiet=QUIET,
        before=drawing.before.operators,
        after=drawing.after.operators,
        svg=svg[svg.index("<svg") :].rstrip(),
        changes="\n".join(_row(change) for change in drawing.changes),
        report=escape(report),
        script=_SCRIPT.strip(),
    )


def _row(change: Change) -> str:
    number = f" #{change.number}" if change.number else ""
    data = f' data-rewrite="rewrite{change.number}"' if change.number else ""
    return (
        f'<tr{data}><td style="background: {LOOKS[change.status].fill}">{change.verb}{number}</td>'
        f'<td class="number">{change.count}</td><td>{escape(change.passes)}</td>'
        f"<td>{escape(change.what)}</td><td>{escape(change.where)}</td></tr>"
    )
