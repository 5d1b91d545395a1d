"""Mutate the pure core with mutmut, and see what the unit tests of each module do not notice.

`scripts/mutants` plants bugs that somebody thought of; this makes all small changes that mutmut
knows, to every function of a module. What its own tests let pass is listed, but for the wording of
messages, and for what `mutation_explained.py` says why it changes nothing. The exit code is 0 when
nothing is left. mutmut is no dependency: it is installed beside the packages of the tests.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.mutation_explained import EXPLAINED

ROOT: Final = Path(__file__).parents[1]
TOOLS: Final = ROOT / ".venv" / "mutation"
MUTMUT: Final = "mutmut==3.8.1"
LONGEST_SECONDS: Final = 3600

MODULES: Final[dict[str, tuple[str, ...]]] = {
    "volcrypt/geometry.py": ("tests/test_geometry.py",),
    "volcrypt/chunk_set.py": ("tests/test_chunk_set.py",),
    "volcrypt/formats/change_map.py": ("tests/formats/test_change_map.py",),
    "volcrypt/formats/manifest.py": ("tests/formats/test_manifest.py",),
    "volcrypt/kms/conditions.py": ("tests/kms/test_conditions.py",),
    "volcrypt/kms/grants.py": ("tests/kms/test_grants.py",),
    "volcrypt/kms/lifecycle.py": ("tests/kms/test_lifecycle.py",),
    "volcrypt/kms/patterns.py": ("tests/kms/test_policy.py", "tests/kms/test_conditions.py"),
    "volcrypt/kms/policy.py": ("tests/kms/test_policy.py", "tests/kms/test_conditions.py"),
    "volcrypt/kms/policy_document.py": ("tests/kms/test_policy_document.py",),
    "volcrypt/snapshot/plan.py": ("tests/snapshot/test_plan.py",),
}
"""The pure core, and the tests that are to notice."""

# mutmut lies behind the packages of the tests, so that those are the ones that are used.
_RUN: Final = "import sys; sys.path.append({tools!r}); from mutmut.__main__ import cli; cli()"


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed."""

    module: str
    removed: str
    added: str

    @property
    def is_wording(self) -> bool:
        """Whether only the text of a message is another: a string with a space in it."""
        texts = re.findall(r'"[^"]* [^"]*"', self.removed)
        plain = self.added.replace("XX", "")
        return bool(texts) and plain.casefold() == self.removed.casefold()

    @property
    def is_explained(self) -> bool:
        known = EXPLAINED.get(self.module, {})
        return f"{self.removed} -> {self.added}" in known


class Workshop:
    """A copy of the package and its tests that mutmut changes as it likes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("volcrypt", "tests", "scripts"):
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, directory)

    def mutate(self, module: str, tests: tuple[str, ...]) -> tuple[Counter[str], list[Survivor]]:
        """How many mutants came to which end, and those that lived."""
        (self._directory / "setup.cfg").write_text(
            f"[mutmut]\nsource_paths=\n    volcrypt\nonly_mutate=\n    {module}\n"
            "pytest_add_cli_args_test_selection=\n"
            + "".join(f"    {each}\n" for each in tests)
            + "also_copy=\n    tests\n    scripts\n    pyproject.toml\n    README.md\n"
        )
        assert self._pytest(tests) == 0, f"{tests} fail without any mutant"
        shutil.rmtree(self._directory / "mutants", ignore_errors=True)
        done = self._mutmut("run", "--max-children", "1")
        ends: Counter[str] = Counter()
        survivors = []
        for line in self._mutmut("results", "--all", "true").splitlines():
            name, _, end = line.strip().rpartition(": ")
            if name:
                ends[end] += 1
            if end in {"survived", "no tests"} and not self._is_noticed_afresh(module, name, tests):
                survivors.append(self._survivor(module, name))
        if not ends:
            raise SystemExit(f"error: mutmut made nothing of {module}\n{done}")
        return ends, survivors

    def _is_noticed_afresh(self, module: str, name: str, tests: tuple[str, ...]) -> bool:
        """Whether the tests fail in a process of their own: mutmut changes nothing in what ran when
        the module was imported, tables above all."""
        path = self._directory / module
        right = path.read_bytes()
        self._mutmut("apply", name)
        assert path.read_bytes() != right, f"{name} was not applied"
        try:
            return self._pytest(tests) != 0
        finally:
            path.write_bytes(right)

    def _pytest(self, tests: tuple[str, ...]) -> int:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=self._directory,
            env=os.environ | {"PYTHONPATH": str(self._directory), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
            capture_output=True,
            timeout=LONGEST_SECONDS,
        ).returncode

    def _survivor(self, module: str, name: str) -> Survivor:
        lines = self._mutmut("show", name).splitlines()
        changed: dict[str, list[str]] = {"-": [], "+": []}
        for line in lines:
            if line[:1] in changed and line[:3] not in {"---", "+++"}:
                changed[line[0]].append(line[1:].strip())
        return Survivor(module, " ".join(changed["-"]), " ".join(changed["+"]))

    def _mutmut(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _RUN.format(tools=str(TOOLS)), *arguments],
            cwd=self._directory,
            check=False,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
        )
        return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="*", help="only modules with this in their name")
    wanted = parser.parse_args().module
    if not TOOLS.is_dir():
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, "install", "--target", TOOLS, MUTMUT], check=True)
    left = 0
    with tempfile.TemporaryDirectory(prefix="volcrypt-mutation-") as directory:
        workshop = Workshop(Path(directory))
        for module, tests in MODULES.items():
            if wanted and not any(word in module for word in wanted):
                continue
            ends, survivors = workshop.mutate(module, tests)
            wording = [each for each in survivors if each.is_wording]
            explained = [each for each in survivors if each.is_explained]
            rest = [each for each in survivors if not each.is_wording and not each.is_explained]
            print(
                f"{module}: {ends.total()} mutants, {ends.total() - len(survivors)} noticed, "
                f"{len(wording)} of wording, {len(explained)} explained, {len(rest)} left",
                flush=True,
            )
            for each in rest:
                print(f"  - {each.removed}\n  + {each.added}")
            left += len(rest)
    raise SystemExit(1 if left else 0)


if __name__ == "__main__":
    main()
