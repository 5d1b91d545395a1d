"""The XTS kernel beside `openssl speed`, one core each, taken in turns.

`openssl speed` transforms one data unit again and again under one tweak; the kernel sets a new
tweak for each unit, as every user of XTS must, so it cannot reach a ratio of 1.
"""

import argparse
import mmap
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from scripts.bench._lib import print_json, print_table
from volcrypt.crypto.xts import XtsKernel

UNIT_BYTES = 4096
TARGET = 0.85
KEY = bytes(range(64))


def openssl_rate(direction: str, seconds: int) -> float:
    """Bytes a second of `openssl speed`, by its own clock."""
    command = ["openssl", "speed", "-mr", "-elapsed", "-evp", "aes-256-xts"]
    command += ["-bytes", str(UNIT_BYTES), "-seconds", str(seconds)]
    if direction == "decrypt":
        command.append("-decrypt")
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"^\+F:.*:([0-9.]+)$", output, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"openssl speed answered: {output}")
    return float(match[1])


def kernel_rate(direction: str, seconds: int, size_bytes: int) -> float:
    """Bytes a second of the kernel, in place on one aligned buffer, as a request is served."""
    kernel, buffer = XtsKernel(KEY), mmap.mmap(-1, size_bytes)
    transform: Callable[[int, mmap.mmap, mmap.mmap], None] = (
        kernel.encrypt_units if direction == "encrypt" else kernel.decrypt_units
    )
    unit, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(16):
            transform(unit, buffer, buffer)
            unit += size_bytes // UNIT_BYTES
    return unit * UNIT_BYTES / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/xts", description=__doc__)
    parser.add_argument("--size", type=int, default=2**20, help="bytes in one call (%(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="per measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON and nothing else")
    arguments = parser.parse_args()
    if arguments.size <= 0 or arguments.size % UNIT_BYTES:
        parser.error(f"--size must be a multiple of {UNIT_BYTES}")

    results = []
    for direction in ("encrypt", "decrypt"):
        peer, ours = [], []
        for _ in range(arguments.rounds):
            peer.append(openssl_rate(direction, arguments.seconds))
            ours.append(kernel_rate(direction, arguments.seconds, arguments.size))
        # Each turn is compared with its neighbour, so that a busy moment hits both.
        ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
        results.append(
            {
                "direction": direction,
                "openssl_bytes_per_second": round(statistics.median(peer)),
                "bytes_per_second": round(statistics.median(ours)),
                "ratio": round(ratio, 3),
            }
        )
    if arguments.json:
        print_json("xts", size_bytes=arguments.size, target_ratio=TARGET, results=results)
        return 0
    rows = [
        [
            str(result["direction"]),
            f"{float(result['openssl_bytes_per_second']) / 1e6:.0f}",
            f"{float(result['bytes_per_second']) / 1e6:.0f}",
            f"{result['ratio']:.3f}",
        ]
        for result in results
    ]
    print_table(["AES-256-XTS", "openssl MB/s", "volcrypt MB/s", "ratio"], rows)
    print(f"target: a ratio of at least {TARGET}; {arguments.size} bytes in one call, one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
