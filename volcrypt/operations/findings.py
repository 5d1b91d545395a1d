"""What a check of `volcrypt doctor` found: one line, how grave, and how to mend it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from volcrypt.errors import VolcryptError


class State(Enum):
    """OK; a NOTE is worth knowing, and nothing that has to be mended; a PROBLEM keeps something
    from working, or from being as safe as it is said to be."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`mend` is a command where there is one, else what to do; None where nothing has to be."""

    check: str
    state: State
    text: str
    mend: str | None = None


Check = Callable[[], Iterable[Finding]]


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, state=State.OK, text=text)


def note(check: str, text: str, mend: str | None = None) -> Finding:
    return Finding(check=check, state=State.NOTE, text=text, mend=mend)


def problem(check: str, text: str, mend: str | None = None) -> Finding:
    return Finding(check=check, state=State.PROBLEM, text=text, mend=mend)


def problem_of(check: str, error: VolcryptError | OSError, mend: str | None = None) -> Finding:
    """What an error says, with its own hint where `mend` is None."""
    if isinstance(error, VolcryptError):
        return problem(check, " ".join(str(error).split()), mend or error.hint)
    where = f"{error.filename}: " if error.filename is not None else ""
    return problem(check, f"{where}{error.strerror or error}", mend)


def problems_of(check: str, error: VolcryptError, mend: str | None = None) -> Iterator[Finding]:
    """As `problem_of`, one for each complaint that the error has."""
    for line in error.lines:
        yield problem(check, " ".join(line.split()), mend or error.hint)


def examine(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """All findings, in order. A check that fails itself is a problem, and ends no other."""
    for name, check in checks:
        try:
            yield from check()
        except (VolcryptError, OSError) as error:
            yield problem_of(name, error)
