"""One bug that `scripts/mutants` plants."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`changes` are (old text, new text), each old one exactly once in `file`."""

    name: str
    file: str
    changes: Sequence[tuple[str, str]]
    tests: Sequence[str]

    @property
    def is_compiled(self) -> bool:
        return self.file.endswith((".c", ".h", ".pyx"))

    def mutate(self, source: str) -> str:
        """Raises LookupError when the text to change is not there once: then it has to be looked
        at anew, since the engine has changed."""
        for old, new in self.changes:
            if source.count(old) != 1:
                raise LookupError(f"{self.name}: found {source.count(old)} times: {old!r}")
            source = source.replace(old, new)
        return source


def mutant(name: str, file: str, tests: Sequence[str], *changes: tuple[str, str]) -> Mutant:
    return Mutant(name=name, file=file, changes=changes, tests=tests)
