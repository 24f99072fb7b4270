"""How a budget was spent, as charts: the way from exact to fast, and what each place gains and costs.

Methods are told apart by colour and by number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from txgraph.lossy import Point, Spending, Spent
from txgraph.render.chart import Axis, Chart
from txgraph.render.labels import time_text
from txgraph.render.style import GRID, INK, METHODS, QUIET

WIDTH = 900.0
ROW = 20.0
MOST_ROWS = 40  # of places; the others are one line
HELD_OUT, LIMIT, MEASURED, PREDICTED = "#D55E00", "#CC79A7", "#0072B2", "#777777"


def charts(spending: Spending) -> tuple[str, ...]:
    """Each as an SVG element: the path, and bars if anything was spent."""
    path = path_chart(spending).svg("relative error against seconds, from exact to fast")
    if not spending.spent:
        return (path,)
    return path, places_chart(spending).svg("seconds before and after, and shares of the squared error, of each place")


def to_svg(spending: Spending) -> str:
    """Both charts, one above the other."""
    path = path_chart(spending)
    drawn = [path, places_chart(spending)] if spending.spent else [path]
    parts, top = [], 0.0
    for chart, svg in zip(drawn, charts(spending), strict=True):
        parts.append(f'<g transform="translate(0 {top:g})">{svg}</g>')
        top += chart.height
    size = f'width="{WIDTH:g}" height="{top:g}" viewBox="0 0 {WIDTH:g} {top:g}"'
    return "\n".join((f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>\n"))


def path_chart(spending: Spending) -> Chart:
    """Relative error over seconds of the places together: predicted, measured, chosen, held out, and the limit."""
    chart = Chart(WIDTH, 400)
    points = [point for point in spending.path if math.isfinite(point.predicted)] or [Point(0, 0.0, 0.0)]
    chosen = next((point for point in points if point.steps == spending.at), points[0])
    limit = error_limit(spending)
    held_out = spending.held_out.relative_error
    errors = [point.predicted for point in points] + [point.measured or 0.0 for point in points] + [limit, held_out]
    positive = [error for error in errors if 0 < error < math.inf] or [1e-6, 1e-5]
    low, high = min(positive) / 1.5, max(positive) * 1.5
    seconds = [point.seconds for point in points]
    unit, name = (1e3, "ms") if max(seconds) >= 2e-3 else (1e6, "µs")
    spread = (max(seconds) - min(seconds) or max(seconds) or 1e-6) * 0.06
    x = Axis((min(seconds) - spread) * unit, (max(seconds) + spread) * unit, 75, WIDTH - 25)
    y = Axis(low, high, 330, 60, log=True)
    chart.text(20, 22, "From exact to fast", font_weight="bold", font_size=14)
    x.draw_across(chart, y.start, y.end, f"{name} of all places together, as measured one by one (left is faster)")
    y.draw_up(chart, x.start, x.end, "relative error")
    if limit:
        chart.line(x.start, y.at(limit), x.end, y.at(limit), LIMIT, stroke_width=2, stroke_dasharray="7 4")
        chart.text(x.end - 4, y.at(limit) - 6, f"limit {limit:.3g}", "end", INK)
    way = " ".join(f"{x.at(p.seconds * unit):.1f},{y.at(p.predicted):.1f}" for p in points)
    chart.add("polyline", points=way, fill="none", stroke=PREDICTED, stroke_width=1.2)
    first = points[0].seconds
    for point in points:
        where = x.at(point.seconds * unit)
        faster = f" ({first / point.seconds:.2f} times faster)" if point.seconds > 0 else ""
        told = f"step {point.steps}: {time_text(point.seconds)}{faster}, predicted error {point.predicted:.1e}"
        chart.add("circle", told, cx=where, cy=y.at(point.predicted), r=2.5, fill=PREDICTED, data_step=point.steps)
        if point.measured is not None and math.isfinite(point.measured):
            told = f"step {point.steps}: measured error {point.measured:.1e}"
            _diamond(chart, where, y.at(point.measured), MEASURED, told)
    where = x.at(chosen.seconds * unit)
    chart.line(where, y.start, where, y.end, INK, stroke_width=1, stroke_dasharray="2 3", class_="chosen")
    side, shift = ("end", -6) if where > (x.start + x.end) / 2 else ("start", 6)
    steps = points[-1].steps
    chart.text(where + shift, y.end + 10, f"chosen: {spending.at} of {steps} steps", side, font_weight="bold")
    if math.isfinite(held_out):
        told = f"calls held out: error {held_out:.1e}"
        chart.add("circle", told, cx=where, cy=y.at(held_out), r=6, fill="none", stroke=HELD_OUT, stroke_width=2.5)
    _path_legend(chart, x.start, bool(limit), [point for point in points if point.measured is not None])
    return chart


def places_chart(spending: Spending) -> Chart:
    """Seconds before and after, and shares of the squared error: a row for each place, those that gain most first."""
    ordered = sorted(spending.spent, key=lambda each: (each.after - each.before, each.module))
    shown, rest = ordered[:MOST_ROWS], ordered[MOST_ROWS:]
    numbers = {method: at for at, method in enumerate(spending.methods, 1)}
    head = 58.0 + 18.0 * math.ceil(len(numbers) / 3)
    bottom = head + ROW * len(shown)
    chart = Chart(WIDTH, bottom + 45 + ROW * bool(rest))
    chart.text(20, 22, "What each place gains and costs", font_weight="bold", font_size=14)
    for method, number in numbers.items():
        x, y = 20 + (number - 1) % 3 * 290, 44 + (number - 1) // 3 * 18
        chart.add("rect", x=x, y=y - 9, width=12, height=10, fill=_color(number))
        chart.text(x + 18, y, f"{number}: {method} (at {spending.methods[method]})")
    longest = max(*(max(each.before, each.after) for each in shown), 1e-9)
    unit, name = (1e3, "ms") if longest >= 2e-3 else (1e6, "µs")
    times = Axis(0, longest * unit * 1.02, 300, 590)
    shares = Axis(0, max(each.share for each in shown) * 102 or 1.0, 630, WIDTH - 40)
    times.draw_across(chart, bottom, head - 8, f"{name} before (light) and after")
    shares.draw_across(chart, bottom, head - 8, "% of the squared error")
    for at, each in enumerate(shown):
        _row(chart, each, head + at * ROW, times, shares, unit, numbers[each.method])
    if rest:
        before, after, share = (sum(getattr(each, name) for each in rest) for name in ("before", "after", "share"))
        told = f"and {len(rest)} places that gain less: {time_text(before)} before, {time_text(after)} after"
        chart.text(20, bottom + 32 + ROW, f"{told}, {share:.0%} of the squared error", color=QUIET)
    return chart


def error_limit(spending: Spending) -> float:
    """The relative error that the budget allows; 0 if it says nothing of that."""
    budget = spending.budget
    limits = [budget.relative_error, None if budget.sqnr_db is None else 10 ** (-budget.sqnr_db / 20)]
    return min((limit for limit in limits if limit is not None), default=0.0)


def _color(number: int) -> str:
    return METHODS[(number - 1) % len(METHODS)]


def _row(chart: Chart, each: Spent, y: float, times: Axis, shares: Axis, unit: float, number: int) -> None:
    told = (
        f"{each.module}: {each.method}; {time_text(each.before)} before, {time_text(each.after)} after; "
        f"error alone {each.error:.1e}, {each.share:.1%} of the squared error"
    )
    name = each.module if len(each.module) <= 46 else f"…{each.module[-45:]}"
    chart.text(times.start - 8, y + 13, name, "end", class_="place")
    before, after, share = times.at(each.before * unit), times.at(each.after * unit), shares.at(each.share * 100)
    chart.add("rect", told, x=times.start, y=y + 2, width=before - times.start, height=7, fill=GRID, stroke=QUIET)
    chart.add("rect", told, x=times.start, y=y + 9, width=after - times.start, height=8, fill=_color(number))
    chart.add("rect", told, x=shares.start, y=y + 3, width=share - shares.start, height=13, fill=_color(number))
    chart.text(share + 5, y + 13, str(number), color=QUIET)


def _path_legend(chart: Chart, left: float, limit: bool, measured: Sequence[Point]) -> None:
    y = 388.0
    chart.line(left, y - 4, left + 22, y - 4, PREDICTED, stroke_width=1.2)
    chart.add("circle", cx=left + 11, cy=y - 4, r=2.5, fill=PREDICTED)
    chart.text(left + 28, y, "predicted, a dot for each step")
    if measured:
        _diamond(chart, left + 225, y - 4, MEASURED)
        chart.text(left + 238, y, "measured, on calls that choose")
    chart.add("circle", cx=left + 446, cy=y - 4, r=6, fill="none", stroke=HELD_OUT, stroke_width=2.5)
    chart.text(left + 458, y, "measured, on calls held out")
    if limit:
        chart.line(left + 650, y - 4, left + 676, y - 4, LIMIT, stroke_width=2, stroke_dasharray="7 4")
        chart.text(left + 684, y, "the budget")


def _diamond(chart: Chart, x: float, y: float, color: str, title: str = "") -> None:
    corners = ((x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y))
    chart.add("polygon", title, fill=color, points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners))
