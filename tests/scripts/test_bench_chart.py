"""The charts of benchmarks are SVG, and their points lie where their values are."""

from pathlib import Path
from xml.etree import ElementTree

from scripts.bench._chart import draw_lines

SVG = "{http://www.w3.org/2000/svg}"


def test_lines_over_logarithmic_axes(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    lines = {"a < b": [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)], "none": [(0.0, 1.0)]}
    draw_lines(path, "title", "x", "y", lines)
    root = ElementTree.parse(path).getroot()
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
    (left, low), (middle, half), (right, high), (edge, _) = circles
    assert left < middle < right
    assert high < half < low
    assert abs((left + right) / 2 - middle) < 0.2  # as far from 1 to 10 as from 10 to 100
    assert abs((low + high) / 2 - half) < 0.2
    assert edge == left
    assert {"title", "x", "y", "a < b", "none"} <= {text.text for text in root.iter(f"{SVG}text")}
