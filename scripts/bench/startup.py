"""Start-up: `volcrypt --help` and `volcrypt volume list`, from the command to its end.

With byte code on disk, as every installation has it after the first command.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench._lib import machine, print_table
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root

NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"
"""Where it is set, each command compiles the program anew: 200 ms that are not its own."""
VOLCRYPT = Path(sys.executable).with_name("volcrypt")
TARGETS = {"--help": 0.150, "volume list": 0.300, "status": None, "config check": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        try:
            found = measure(home, options.turns)
        finally:
            subprocess.run(["rm", "-rf", runtime_directory(home, runtime_root())], check=True)
    if options.json:
        print(json.dumps({"machine": machine(), "commands": found}, indent=2))
        return
    print_table(
        ["command", "median", "best", "target"],
        [
            [
                name,
                f"{figures['median'] * 1000:.0f} ms",
                f"{figures['best'] * 1000:.0f} ms",
                f"{target * 1000:.0f} ms" if target else "-",
            ]
            for name, figures in found.items()
            for target in [TARGETS[name]]
        ],
    )


def measure(home: Path, turns: int) -> dict[str, dict[str, float]]:
    """Seconds by command, in turns, so that what else the machine does is everybody's."""
    run(home, "init")
    run(home, "volume create --size 1MiB --name orders")
    times: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(turns):
        for name, taken in times.items():
            begun = time.perf_counter()
            run(home, name)
            taken.append(time.perf_counter() - begun)
    return {
        name: {"median": statistics.median(taken), "best": min(taken)}
        for name, taken in times.items()
    }


def run(home: Path, command: str) -> None:
    subprocess.run(
        [VOLCRYPT, "--home", home, *command.split()],
        check=True,
        stdout=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if key != NO_BYTE_CODE},
    )


if __name__ == "__main__":
    main()
