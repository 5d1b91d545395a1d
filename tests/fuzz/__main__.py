"""Fuzz decoders for as long as one likes: `python -m tests.fuzz --seconds 600 [NAME...]`.

Each gets its share of the time. With `--seed` a run begins where another one did; what it was shown
depends on nothing else, so the number that a failure names repeats it at once. Of each it says how
much of the processor the slowest document took, and by how much the most memory of the process
grew.
"""

import argparse
import resource
import secrets

from tests.fuzz.harness import DECODERS, run, seconds_of_chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all of them together")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(DECODERS)}")
    given = parser.parse_args()
    names = given.names or list(DECODERS)
    print(f"seed {given.seed}")
    for name in names:
        chances = seconds_of_chance(given.seconds / len(names), given.seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tally = run(DECODERS[name], chances)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{name}: {tally.shown} shown, {tally.taken} taken, slowest "
            f"{tally.slowest_seconds * 1e3:.1f} ms of {len(tally.slowest):,} bytes, "
            f"{grown:,} KiB more",
            flush=True,
        )


if __name__ == "__main__":
    main()
