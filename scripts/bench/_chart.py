"""Charts as SVG files, lines over two logarithmic axes or bars; nothing to install for it."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 70
_RIGHT: Final = 170
_TOP: Final = 40
_BOTTOM: Final = 55
_COLOURS: Final = ("#1f6f8b", "#c8553d", "#588b2f", "#7a4fa3", "#b58900", "#444444", "#0f9d8a")

Points = Sequence[tuple[float, float]]


class _Axis:
    """Powers of ten, from `start` to `stop` on the paper; what is not above zero is at `start`."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        above = [value for value in values if value > 0] or [1.0]
        self._low = math.floor(math.log10(min(above)))
        self._high = max(math.ceil(math.log10(max(above))), self._low + 1)
        self._start, self._stop = start, stop

    def at(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self._low
        share = (exponent - self._low) / (self._high - self._low)
        return self._start + share * (self._stop - self._start)

    def ticks(self) -> list[float]:
        return [10.0**exponent for exponent in range(self._low, self._high + 1)]


def draw_lines(
    path: Path, title: str, x_label: str, y_label: str, lines: Mapping[str, Points]
) -> None:
    """Write a chart with a line for each entry. A value of 0 stands at the edge."""
    points = [point for line in lines.values() for point in line]
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    middle = (_TOP + bottom) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text((_LEFT + right) / 2, 22, title, size=15),
        _text((_LEFT + right) / 2, _HEIGHT - 14, x_label),
        f'<g transform="translate(18 {middle}) rotate(-90)">{_text(0, 0, y_label)}</g>',
    ]
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 18, f"{tick:,g}"))
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:,g}", anchor="end"))
    for number, (label, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(across.at(x), up.at(y)) for x, y in line]
        path_data = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path_data}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = _TOP + 16 + 20 * number
        parts.append(f'<rect x="{right + 16}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(right + 36, y, label, anchor="start"))
    path.write_text("\n".join([*parts, "</svg>", ""]))


_BAR_HEIGHT: Final = 16
_BAR_LEFT: Final = 190
_BAR_RIGHT: Final = 210
_PANEL_HEAD: Final = 34


def draw_bars(
    path: Path, title: str, panels: Mapping[str, Mapping[str, tuple[float, str]]]
) -> None:
    """Write a chart of panels, one below the other, each with a bar for each entry: its length,
    of which the longest of the panel fills it, and the words behind it. A name has one colour."""
    names = list(dict.fromkeys(name for bars in panels.values() for name in bars))
    height = _TOP + sum(_PANEL_HEAD + _BAR_HEIGHT * len(bars) for bars in panels.values()) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_WIDTH / 2, 22, title, size=15),
    ]
    y = float(_TOP)
    for heading, bars in panels.items():
        parts.append(_text(10, y + _PANEL_HEAD - 14, heading, anchor="start", size=13))
        y += _PANEL_HEAD
        longest = max(length for length, _ in bars.values()) or 1.0
        for name, (length, words) in bars.items():
            width = (_WIDTH - _BAR_LEFT - _BAR_RIGHT) * length / longest
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            parts.append(_text(_BAR_LEFT - 6, y + 8, name, anchor="end", size=11))
            parts.append(
                f'<rect class="bar" x="{_BAR_LEFT}" y="{y - 2:.1f}" width="{width:.1f}" '
                f'height="{_BAR_HEIGHT - 4}" fill="{colour}"/>'
            )
            parts.append(_text(_BAR_LEFT + width + 5, y + 8, words, anchor="start", size=11))
            y += _BAR_HEIGHT
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-family="sans-serif">{escape(text)}</text>'
    )
