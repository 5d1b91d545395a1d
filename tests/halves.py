"""Halves of all tests that take equally long: `python -m tests.halves 1` lists the files of one.

How long a file takes is in seconds.txt; one that is not there counts as a short one, so that none
is ever left out. `python -m tests.halves record RESULTS.xml...` writes it anew, from what pytest's
`--junitxml` wrote in runs of all tests; those of one file are added up.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

TESTS: Final = Path(__file__).parent
SECONDS: Final = TESTS / "seconds.txt"
UNKNOWN_SECONDS: Final = 3.0


def files_of_tests() -> list[str]:
    """Every file of tests, from the root of the repository."""
    return sorted(str(path.relative_to(TESTS.parent)) for path in TESTS.rglob("test_*.py"))


def halves(files: Iterable[str], seconds: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The longest first, each to the half that has less to do."""
    made: tuple[list[str], list[str]] = ([], [])
    sums = [0.0, 0.0]
    weights = {file: seconds.get(file, UNKNOWN_SECONDS) for file in files}
    for file in sorted(weights, key=lambda file: (-weights[file], file)):
        lesser = sums.index(min(sums))
        sums[lesser] += weights[file]
        made[lesser].append(file)
    return sorted(made[0]), sorted(made[1])


def recorded() -> dict[str, float]:
    """Seconds by file."""
    lines = SECONDS.read_text().splitlines()
    return {file: float(seconds) for seconds, _, file in (line.partition(" ") for line in lines)}


def taken(results: Iterable[Path]) -> dict[str, float]:
    """Seconds by file, from results of pytest."""
    found: defaultdict[str, float] = defaultdict(float)
    for path in results:
        for case in ElementTree.parse(path).iter("testcase"):
            *folders, module = _module(case.attrib["classname"])
            found["/".join([*folders, f"{module}.py"])] += float(case.attrib["time"])
    return dict(found)


def _module(name: str) -> list[str]:
    """Without the classes in it."""
    parts = name.split(".")
    while not parts[-1].startswith("test_"):
        parts.pop()
    return parts


def main(arguments: list[str]) -> int:
    match arguments:
        case ["1" | "2" as number]:
            print("\n".join(halves(files_of_tests(), recorded())[int(number) - 1]))
        case ["record", *results] if results:
            found = taken(map(Path, results))
            lines = [f"{found[file]:.1f} {file}" for file in files_of_tests() if file in found]
            SECONDS.write_text("\n".join([*lines, ""]))
        case _:
            print(f"usage: {__doc__}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
