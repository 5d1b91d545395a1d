"""Both halves of `scripts/test` together are all tests."""

import subprocess
import sys
from pathlib import Path

from tests.halves import UNKNOWN_SECONDS, files_of_tests, halves, recorded, taken

ROOT = Path(__file__).parents[2]


def test_no_file_is_in_neither_half_or_in_both() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-m", "tests.halves", number],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\n")[:-1]
        for number in ("1", "2")
    ]
    tracked = subprocess.run(
        [
            "git",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "tests/**/test_*.py",
            "tests/test_*.py",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert sorted([*printed[0], *printed[1]]) == sorted(set(tracked.split()))


def test_they_take_equally_long() -> None:
    seconds = recorded()
    first, second = (
        sum(seconds.get(file, UNKNOWN_SECONDS) for file in half)
        for half in halves(files_of_tests(), seconds)
    )
    assert abs(first - second) <= max([UNKNOWN_SECONDS, *seconds.values()])


def test_an_unknown_file_is_in_one() -> None:
    assert halves(["b", "a", "new"], {"a": 5, "b": 1, "gone": 9}) == (["a"], ["b", "new"])


def test_seconds_of_all_runs_are_added_up(tmp_path: Path) -> None:
    case = '<testcase classname="tests.a.test_b{}" name="test" time="{}"/>'
    for number, cases in enumerate((["", "1.5"], [".TestC", "2"])):
        (tmp_path / f"{number}.xml").write_text(
            f"<testsuites><testsuite>{case.format(*cases)}</testsuite></testsuites>"
        )
    assert taken(tmp_path.iterdir()) == {"tests/a/test_b.py": 3.5}
