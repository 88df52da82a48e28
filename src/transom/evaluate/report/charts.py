"""The charts of a report: loss along the text, quality against memory, speed by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transom.evaluate.report.svg import Axis, Chart
from transom.evaluate.results import Results
from transom.evaluate.summary import Held, PolicySummary, by_bytes
from transom.units import plain_seconds, plain_size

__all__ = ["HELD", "Style", "against_bytes", "by_length", "loss_along"]

SIZES = ((760, 340, "wide"), (380, 300, "narrow"))  # the page shows the one that fits
SMOOTHED = 3  # points averaged into each drawn one
HELD: dict[Held, str] = {"hot_bytes": "hot", "total_bytes": "hot and cold"}
ROOM = 0.06  # share of an axis that is left free around the points

Draw = Callable[[Chart], None]
Style = Callable[[str], str]


def loss_along(results: Results, style: Style) -> str:
    """Loss by position, a line for each policy; empty when nothing was read."""
    lines = {
        one.policy: [
            ((start + stop) / 2, loss) for start, stop, loss in one.loss.points if loss is not None
        ]
        for one in results.policies
        if one.loss is not None
    }
    lines = {policy: _smooth(points) for policy, points in lines.items() if points}
    if not lines:
        return ""
    longest = max(one.loss.tokens for one in results.policies if one.loss is not None)
    x = Axis("tokens read", 0, longest, "{:,.0f}".format)
    y = _around([loss for points in lines.values() for _, loss in points], "loss", "{:.1f}".format)
    trained = results.facts.get("trained_length")

    def draw(chart: Chart) -> None:
        for policy, points in lines.items():
            chart.line(points, style(policy), policy)
        if trained is not None and trained < longest:
            chart.rule(trained, f"trained on {trained:,}")

    return _both(x, y, "Loss in nats per token along the text", draw)


def against_bytes(results: Results, quality: str, style: Style, held: Held = "hot_bytes") -> str:
    """`"loss"` or `"recall"` against bytes, with a line along the front; empty below two."""
    found = results.policies
    values = [_quality(one, quality) for one in found]
    known = [(one, value) for one, value in zip(found, values, strict=True) if value is not None]
    if len(known) < 2:
        return ""
    best = by_bytes(found, quality, held)
    bytes_ = [float(getattr(one, held)) for one, _ in known]
    x = Axis(
        f"bytes of keys and values, {HELD[held]}",
        min(bytes_) / 1.5,
        max(bytes_) * 1.7,
        _size,
        log=True,
    )
    if quality == "loss":
        y = _around([value for _, value in known], "loss", "{:.2f}".format)
    else:
        y = Axis("recall", -0.04, 1.06, "{:.0%}".format)

    def draw(chart: Chart) -> None:
        front = [(float(getattr(found[i], held)), values[i]) for i in best]
        chart.line([(a, b) for a, b in front if b is not None], "front", "the front")
        for one, value in known:
            on_front = "best " if found.index(one) in best else ""
            shown = f"{value:.3f}" if quality == "loss" else f"{value:.0%}"
            size = getattr(one, held)
            title = f"{one.policy}: {shown} at {plain_size(size)} {HELD[held]}"
            chart.dot(size, value, on_front + style(one.policy), title)

    return _both(x, y, f"{quality} against bytes of keys and values, {HELD[held]}", draw)


def by_length(results: Results, what: str, style: Style) -> str:
    """`"decode"` seconds per token or `"prefill"` tokens a second by length; empty without any."""
    lines = {
        one.policy: [
            (
                row.length,
                row.decode_seconds if what == "decode" else row.length / row.prefill_seconds,
            )
            for row in one.speeds
            if row.prefill_seconds  # a recomputed window has none, and would dwarf the rest
        ]
        for one in results.policies
    }
    lines = {policy: points for policy, points in lines.items() if points}
    if not lines:
        return ""
    lengths = [x for points in lines.values() for x, _ in points]
    highest = max(y for points in lines.values() for _, y in points)
    x = Axis("tokens in the prompt", 0, max(lengths) * (1 + ROOM), "{:,.0f}".format)
    if what == "decode":
        y = Axis("time per token", 0, highest * (1 + ROOM), plain_seconds)
    else:
        y = Axis("tokens a second", 0, highest * (1 + ROOM), "{:,.0f}".format)

    def draw(chart: Chart) -> None:
        for policy, points in lines.items():
            chart.line(points, style(policy), policy)
            for length, value in points:
                shown = plain_seconds(value) if what == "decode" else f"{value:,.0f} tokens/s"
                title = f"{policy}: {shown} at {length:,.0f} tokens"
                chart.dot(length, value, style(policy), title)

    return _both(x, y, f"{what} by length of the prompt", draw)


def _quality(one: PolicySummary, quality: str) -> float | None:
    if quality == "loss":
        return one.loss.loss if one.loss else None
    return one.recalled.rate if one.recalled else None


def _both(x: Axis, y: Axis, title: str, draw: Draw) -> str:
    """The chart for a wide page and for a narrow one."""
    drawn = []
    for width, height, style in SIZES:
        chart = Chart(x, y, title, width, height)
        draw(chart)
        drawn.append(chart.markup(style))
    return "".join(drawn)


def _around(values: Sequence[float], label: str, write: Callable[[float], str]) -> Axis:
    low, high = min(values), max(values)
    room = (high - low or 1.0) * ROOM
    return Axis(label, low - room, high + room, write)


def _size(value: float) -> str:
    return plain_size(round(value))


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred means, over fewer points at both ends."""
    reach = SMOOTHED // 2
    smooth = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - reach) : i + reach + 1]]
        smooth.append((x, sum(near) / len(near)))
    return smooth
