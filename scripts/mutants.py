"""Plant known bugs into the engine, one after the other, and see that quick tests notice.

Each mutant (`scripts/mutant_list.py`) changes a line or two of a copy of the package. The tests
that are named for it run there, on an interpreter of their own, so that every process that they
start has the bug too; for one in C or Cython the compiled modules are built anew. First they run
without any: a test that fails anyway notices nothing. The exit code is 0 when every mutant was
noticed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scripts.mutant import Mutant
from scripts.mutant_list import MUTANTS

ROOT: Final = Path(__file__).parents[1]
LONGEST_SECONDS: Final = 300
_NODES: Final = ("null", "zero", "full", "random", "urandom")
_MOUNTED: Final = "".join(f"mount --bind /dev/{node} /dev/{node}; " for node in _NODES)
# A bug may take away what it finds at a name, as root. What is mounted there cannot be taken away.
_GUARD: Final = ("unshare", "--mount", "sh", "-ec", _MOUNTED + 'exec "$@"', "-")


class Laboratory:
    """A copy of package and tests, with an interpreter that takes the package from there."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("volcrypt", "tests", "scripts", "systemd"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignored)
        for name in ("pyproject.toml", "setup.py", "README.md"):
            shutil.copy(ROOT / name, self.tree)
        environment = directory / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.python = environment / "bin" / "python"
        (packages,) = environment.glob("lib/python*/site-packages")
        # The daemon runs isolated: neither PYTHONPATH nor the working directory would reach it.
        real_packages = sysconfig.get_paths()["purelib"]
        (packages / "laboratory.pth").write_text(f"{self.tree}\n{real_packages}\n")
        command = self.python.with_name("volcrypt")
        command.write_text(f"#!{self.python}\nfrom volcrypt.cli.main import main\nmain()\n")
        command.chmod(0o755)
        server = Path(sys.executable).with_name("weed")  # the S3 server of tests
        self.python.with_name(server.name).symlink_to(server)

    def run(self, tests: Sequence[str]) -> tuple[bool, str]:
        """Whether they all passed, and the first that did not."""
        process = subprocess.Popen(
            [*_GUARD, self.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=self.tree,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return False, "hangs"
        if process.returncode == 0:
            return True, ""
        if -process.returncode in {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT}:
            return False, f"{signal.Signals(-process.returncode).name}, which ended all"
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if process.returncode != 1 or not failed:
            raise RuntimeError(f"pytest ended with {process.returncode}:\n{output}")
        return False, failed[0].split(" ")[1]

    def plant(self, mutant: Mutant) -> None:
        path = self.tree / mutant.file
        path.write_text(mutant.mutate((ROOT / mutant.file).read_text()))
        self._build(mutant)

    def restore(self, mutant: Mutant) -> None:
        shutil.copy(ROOT / mutant.file, self.tree / mutant.file)
        self._build(mutant)

    def _build(self, mutant: Mutant) -> None:
        if mutant.is_compiled:
            subprocess.run(
                [self.python, "setup.py", "--quiet", "build_ext", "--inplace"],
                cwd=self.tree,
                check=True,
                stdout=subprocess.DEVNULL,
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("mutant", nargs="*", help="only those whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="name them, and run nothing")
    arguments = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not arguments.mutant or any(part in mutant.name for part in arguments.mutant)
    ]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name}: {mutant.file}")
        return 0
    survived = []
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="volcrypt-mutants-") as directory:
        laboratory = Laboratory(Path(directory))
        passed, failed = laboratory.run(
            sorted({test for mutant in chosen for test in mutant.tests})
        )
        if not passed:
            print(f"error: {failed} fails without any mutant", file=sys.stderr)
            return 2
        for mutant in chosen:
            started = time.monotonic()
            laboratory.plant(mutant)
            passed, failed = laboratory.run(mutant.tests)
            laboratory.restore(mutant)
            seconds = time.monotonic() - started
            outcome = "SURVIVED" if passed else f"noticed by {failed}"
            print(f"{mutant.name:45} {seconds:5.1f} s  {outcome}", flush=True)
            if passed:
                survived.append(mutant.name)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutants were noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
