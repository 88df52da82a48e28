"""Charts as inline SVG: axes, lines and dots whose colours the page's style decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Axis", "Chart"]

LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 44


@dataclass(frozen=True)
class Axis:
    """One axis: its label, its two ends, and how numbers are written on it.

    With `log`, equal steps are equal factors; both ends must then be above 0.
    """

    label: str
    low: float
    high: float
    write: Callable[[float], str]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high end."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self, count: int) -> list[float]:
        """Round numbers between the ends, about `count` of them."""
        if self.log:
            return self._factors(count)
        rough = (self.high - self.low) / max(1, count) or 1.0
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]

    def _factors(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for multiples in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**d for d in decades for m in multiples]
            found = [tick for tick in found if self.low <= tick <= self.high]
            if len(found) <= count + 2:
                break
        return found


@dataclass
class Chart:
    """A drawing area with two axes; `markup` is the finished SVG.

    Each mark names a class of the page's style. Text that may come from a user is escaped.
    """

    x: Axis
    y: Axis
    title: str
    width: int = 760
    height: int = 340
    _marks: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], style: str, name: str) -> None:
        """A line through points in the units of the axes."""
        path = "M" + "L".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in points)
        self._marks.append(f'<path class="line {style}" d="{path}">{_title(name)}</path>')

    def dot(self, x: float, y: float, style: str, name: str) -> None:
        """A dot; its `name` appears while a pointer rests on it."""
        at = f'cx="{self._x(x):.1f}" cy="{self._y(y):.1f}"'
        self._marks.append(f'<circle class="dot {style}" {at} r="5">{_title(name)}</circle>')

    def rule(self, x: float, name: str) -> None:
        """A dashed line across the chart, with its name beside it."""
        at = self._x(x)
        left = at > self.width / 2
        self._marks.append(f'<path class="rule" d="M{at:.1f} {TOP}V{self.height - BOTTOM}"/>')
        self._text(at + (-6 if left else 6), TOP + 10, name, "end" if left else "start", "soft")

    def markup(self, style: str = "") -> str:
        """The chart as one `svg` element."""
        return (
            f'<svg class="chart {style}" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">{self._axes()}{"".join(self._marks)}</svg>'
        )

    def _axes(self) -> str:
        kept, self._marks = self._marks, []
        bottom = self.height - BOTTOM
        for tick in self.y.ticks(5):
            at = self._y(tick)
            self._marks.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{self.width - RIGHT}"/>')
            self._text(LEFT - 8, at + 4, self.y.write(tick), "end", "soft")
        for tick in self.x.ticks(max(2, self.width // 110)):
            at = self._x(tick)
            self._marks.append(f'<path class="tick" d="M{at:.1f} {bottom}v5"/>')
            self._text(at, bottom + 19, self.x.write(tick), "middle", "soft")
        self._marks.append(f'<path class="axis" d="M{LEFT} {bottom}H{self.width - RIGHT}"/>')
        middle = (LEFT + self.width - RIGHT) / 2
        self._text(middle, self.height - 6, self.x.label, "middle", "name")
        drawn, self._marks = "".join(self._marks), kept
        return drawn

    def _text(self, x: float, y: float, text: str, anchor: str, style: str) -> None:
        self._marks.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def _x(self, value: float) -> float:
        return LEFT + self.x.place(value) * (self.width - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return self.height - BOTTOM - self.y.place(value) * (self.height - TOP - BOTTOM)


def _title(name: str) -> str:
    return f"<title>{escape(name)}</title>"
