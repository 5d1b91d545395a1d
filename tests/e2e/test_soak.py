"""Hours of mixed load (`tests/soaking/program.py`), and that what watches them is not blind."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soaking.flatness import LIMITS, Register, Series
from tests.soaking.ledger import UNIT_BYTES, Ledger
from tests.soaking.program import new_soak

MIB = 2**20
HOUR = 3600.0

# Takes more with each line that it is given, if it is told to, and answers with a line.
WORKER = """
import os, sys
kept = []
for line in sys.stdin:
    work = bytearray(os.urandom(4096) * 128)
    if line.startswith("leak"):
        kept += [work, os.open("/dev/null", os.O_RDONLY)]
    print("done", flush=True)
"""


def series_of(kind: str, *, growth: float, noise: float, level: float) -> Series:
    """Eight hours of a figure around `level`; a fifth of the points are far off, upwards."""
    dice = random.Random(7)
    series = Series(kind)
    for number in range(300):
        far = 20 * noise if dice.random() < 0.2 else 0.0
        value = level + growth * number / 300 + dice.uniform(-noise, noise) + far
        series.points.append((number * 8 * HOUR / 300, value))
    return series


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("resident", 60.0 * MIB),
        ("descriptors", 20.0),
        ("threads", 6.0),
        ("files", 8.0),
        ("median", 0.001),
        ("99th", 0.02),
    ],
)
def test_what_grows_is_told_from_what_only_varies(kind: str, level: float) -> None:
    limit = LIMITS[kind]
    allowed = max(limit.absolute, limit.share * level)
    assert series_of(kind, growth=0.0, noise=allowed / 2, level=level).problem is None
    assert series_of(kind, growth=-3 * allowed, noise=allowed / 2, level=level).problem is None
    leaking = series_of(kind, growth=5 * allowed, noise=allowed / 4, level=level)
    assert "grew by" in str(leaking.problem)


def test_what_it_takes_to_get_going_is_no_growth() -> None:
    series = Series("resident", [(float(t), min(t, 30) * MIB) for t in range(120)])
    assert series.problem is None


@pytest.mark.parametrize("leaks", [True, False])
def test_a_process_that_leaks_is_found_out(leaks: bool) -> None:
    register = Register()
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for _ in range(40):
            worker.stdin.write("leak\n" if leaks else "work\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "done\n"
            register.note_process("worker", worker.pid)
        worker.stdin.close()
    problems = register.problems()
    assert [problem.partition(" grew")[0] for problem in problems] == (
        ["worker: resident", "worker: descriptors"] if leaks else []
    )


def test_a_byte_that_is_wrong_is_found_with_its_unit() -> None:
    ledger = Ledger(8, tag=1)
    first = ledger.write(2, 3)
    ledger.write(3, 1)
    ledger.discard(4, 1)
    whole = ledger.content(0, 8)
    ledger.check(whole)
    ledger.check(whole[2 * UNIT_BYTES :], 2)
    assert not any(whole[4 * UNIT_BYTES : 5 * UNIT_BYTES])
    older = whole[: 3 * UNIT_BYTES] + first[UNIT_BYTES : 2 * UNIT_BYTES] + whole[4 * UNIT_BYTES :]
    moved = whole[: 3 * UNIT_BYTES] + whole[2 * UNIT_BYTES : 3 * UNIT_BYTES]
    flipped = bytearray(whole)
    flipped[4 * UNIT_BYTES - 1] ^= 1
    for wrong in (older, moved + whole[4 * UNIT_BYTES :], bytes(flipped)):
        with pytest.raises(AssertionError, match="unit 3 has"):
            ledger.check(wrong)


@pytest.mark.kept_mount
def test_each_turn_once(tmp_path: Path) -> None:
    with new_soak(tmp_path, seed=1) as soak:
        soak.each_once()


@pytest.mark.soak
@pytest.mark.kept_mount
def test_hours_of_everything(tmp_path: Path) -> None:
    """Half an hour, or VOLCRYPT_SOAK_HOURS."""
    hours = float(os.environ.get("VOLCRYPT_SOAK_HOURS", "0.5"))
    with new_soak(tmp_path, seed=random.randrange(10**6)) as soak:
        try:
            soak.soak(hours * HOUR)
        finally:
            print("\n".join(soak.register.table()), soak.counts, sep="\n")
