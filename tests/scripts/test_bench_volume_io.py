"""The parts of `scripts/bench/volume_io` that measure nothing: what it reads, counts and shows."""

import io
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.bench._chart import draw_bars
from scripts.bench._lib import mount_of
from scripts.bench._processes import descendants, parse_stat, usage_of
from scripts.bench.volume_io_jobs import JOBS, source_tree, titles_of
from scripts.bench.volume_io_report import Figure, Unit, median, members, panels, table
from scripts.bench.volume_io_systems import EXT4, FILE, Served, check_mounted

SVG = "{http://www.w3.org/2000/svg}"
STAT = "77 (a) b (c) S 5 77 77 0 -1 4194560 9 3 1 0 150 250 7 8 20 0 5 0 520 2171 256 18446744 1 1"


def figure(unit: Unit, value: float, *, cpu_seconds: float = 0.0) -> Figure:
    return Figure(unit=unit, value=value, cpu_seconds=cpu_seconds, resident_bytes=2**20)


FIGURES = {
    "read-1m-1": {
        "ours": figure(Unit.BYTES, 2e9, cpu_seconds=2**-31),
        "theirs": figure(Unit.BYTES, 5e8),
    },
    "read-4k-8": {
        "ours": figure(Unit.OPERATIONS, 90000, cpu_seconds=12.5e-6),
        "theirs": figure(Unit.OPERATIONS, 120000),
    },
    "unpack": {
        "ours": figure(Unit.SECONDS, 0.5, cpu_seconds=0.25),
        "theirs": figure(Unit.SECONDS, 2.0),
    },
}
TITLES = {"read-1m-1": "1 MiB", "read-4k-8": "4 KiB", "unpack": "a tree"}


def test_usage_of_a_process_with_any_name() -> None:
    parent, usage = parse_stat(STAT)
    assert (parent, usage.cpu_seconds, usage.resident_bytes) == (5, 4.0, 256 * 4096)


def test_children_of_children_belong_to_a_server() -> None:
    assert descendants(10, {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}) == {10, 11, 12}


def test_a_server_that_is_gone_has_no_usage() -> None:
    assert usage_of(1).resident_bytes > 0
    with pytest.raises(RuntimeError, match="is gone"):
        usage_of(2**22 + 1)  # above the largest pid of any kernel


def test_no_figure_of_a_mount_that_is_not_there(tmp_path: Path) -> None:
    place, kind = mount_of(tmp_path)
    served = Served(file=tmp_path / "volume", mount=place, kind=kind, process=1, backing=tmp_path)
    check_mounted(served)
    for mount, wanted in ((tmp_path, kind), (place, "fuse")):
        missing = Served(
            file=tmp_path / "volume", mount=mount, kind=wanted, process=1, backing=tmp_path
        )
        with pytest.raises(RuntimeError, match=f"not on {mount}"):
            check_mounted(missing)


def test_the_tree_is_of_ext4_alone() -> None:
    jobs = [*JOBS, "tree"]
    assert list(titles_of(jobs, FILE)) == list(JOBS)
    assert list(titles_of(jobs, EXT4)) == [*JOBS, "unpack", "read-back"]
    assert list(titles_of(["read-4k-8"], EXT4)) == ["read-4k-8"]


def test_the_archive_is_as_large_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "one.py").write_text("1" * 600)
    (tmp_path / "package/two.py").write_text("2" * 500)
    archive = source_tree(2000, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(archive.data)) as found:
        sizes = {member.name: member.size for member in found}
    assert sizes == {
        "0/one.py": 600,
        "0/package/two.py": 500,
        "1/one.py": 600,
        "1/package/two.py": 500,
    }
    assert (archive.files, archive.size_bytes) == (4, 2200)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match="no sources"):
        source_tree(2000, tmp_path / "empty")


def test_table_and_json_compare_with_the_first() -> None:
    rows = table(FIGURES, TITLES)
    assert rows[0] == ["1 MiB", "ours", "2,000 MB/s", "1.00", "0.50 s/GiB", "1 MiB"]
    assert rows[1][:4] == ["", "theirs", "500 MB/s", "0.25"]
    assert rows[2][2:5] == ["90,000 IOPS", "1.00", "12.5 us each"]
    assert rows[4][2:5] == ["0.50 s", "1.00", "0.25 s"]
    assert rows[5][3] == "0.25"  # four times as long is a quarter as fast
    found = json.loads(json.dumps(members(FIGURES)))
    assert found["read-1m-1"]["theirs"]["ratio"] == 4.0
    assert found["read-4k-8"]["theirs"]["ratio"] == 0.75
    assert found["unpack"]["theirs"] == {
        "value": 2.0,
        "unit": "s",
        "ratio": 4.0,
        "cpu_seconds": 0.0,
        "resident_bytes": 2**20,
    }


def test_the_median_of_turns_and_the_most_memory() -> None:
    turns = [
        Figure(unit=Unit.BYTES, value=value, cpu_seconds=value / 10, resident_bytes=memory)
        for value, memory in ((30.0, 1), (10.0, 3), (20.0, 2))
    ]
    found = median(turns)
    assert (found.value, found.cpu_seconds, found.resident_bytes) == (20.0, 2.0, 3)


def test_the_longest_bar_is_the_fastest(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    draw_bars(path, "a < b", panels(FIGURES, TITLES))
    root = ElementTree.parse(path).getroot()
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "bar"]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1)
    assert widths[2] == pytest.approx(widths[3] * 0.75, abs=0.1)
    assert widths[5] == pytest.approx(widths[4] / 4, abs=0.1)
    assert len({bar.attrib["fill"] for bar in bars}) == 2
    words = {text.text for text in root.iter(f"{SVG}text")}
    assert {"a < b", "1 MiB", "ours", "0.50 s, CPU 0.25 s"} <= words
