"""What counting changes costs a 4 KiB write: the engine with a change map beside one without.

Both write whole units into the page cache of a file, in turn, so that a busy moment hits both. The
change map is the real one, on tmpfs; every chunk is marked once, as in a volume in use, and most
writes find their mark set.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from scripts.bench._lib import print_json, print_table
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import UNIT_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

SIZE = 256 * 2**20


def write_many(volume: Volume, places: list[int], data: bytes) -> float:
    """Microseconds a write."""
    started = time.perf_counter()
    for place in places:
        volume.write(place, data)
    return (time.perf_counter() - started) / len(places) * 1e6


def measure(directory: Path, memory: Path, rounds: int, writes: int) -> dict[str, float]:
    data_path = directory / "data"
    dice = Random(1)
    data_key = DataKey(bytearray(range(64)))
    found: dict[str, list[float]] = {"without": [], "with": []}
    with DataFile.create(data_path, SIZE) as data:
        changes = ChangeMap.open(
            memory / "live",
            directory / "clean",
            volume_id=VolumeId("vol-0123456789abcdef0"),
            size_bytes=SIZE,
            seal=MacSeal(bytes(32)),
            data_path=data_path,
        )
        volumes = {
            "without": Volume(data, size_bytes=SIZE, data_key=data_key, changes=None),
            "with": Volume(data, size_bytes=SIZE, data_key=data_key, changes=changes),
        }
        unit = dice.randbytes(UNIT_BYTES)
        for place in range(0, SIZE, 2**20):
            volumes["with"].write(place, unit * 256)
        for _ in range(rounds):
            places = [dice.randrange(SIZE // UNIT_BYTES) * UNIT_BYTES for _ in range(writes)]
            for name, volume in volumes.items():
                found[name].append(write_many(volume, places, unit))
        for volume in volumes.values():
            volume.close()
        changes.close()
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/change_map", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each (%(default)s)")
    parser.add_argument("--writes", type=int, default=5000, help="in a turn (%(default)s)")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="for the data")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    memory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
            found = measure(Path(directory), memory, arguments.rounds, arguments.writes)
    finally:
        shutil.rmtree(memory)
    if arguments.json:
        print_json("change_map", microseconds=found)
        return 0
    rows = [[name, f"{found[name]:.2f} us"] for name in ("without", "with")]
    rows.append(["difference", f"{found['with'] / found['without'] - 1:+.1%}"])
    print_table(["change map", "4 KiB write"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
