"""On which line of a TOML text something stands. Pure.

The parser of the standard library does not say. So the text is read statement by statement: lines
are taken together until they parse by themselves.
"""

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

Path = tuple[str, ...]


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line, from 1, where the option or table of this path stands, or what is nearest above it
    in the path; None where nothing is. `text` parses."""
    best: tuple[int, int] | None = None
    for line, found in _statements(text):
        depth = _common(found, tuple(path))
        if depth and (best is None or depth > best[0]):
            best = depth, line
    return None if best is None else best[1]


def _statements(text: str) -> Iterator[tuple[int, Path]]:
    """Each table and option with its line."""
    table: Path = ()
    pending: list[str] = []
    begun = 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            begun = number
        pending.append(line)
        try:
            parsed = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        is_header = pending[0].lstrip().startswith("[")
        for path in _paths(parsed):
            yield begun, path if is_header else (*table, *path)
            if is_header:
                table = path  # the last one, which is the deepest
        pending = []


def _paths(value: Any) -> Iterator[Path]:
    """All keys, each before what is in it."""
    if isinstance(value, list):
        for item in value:
            yield from _paths(item)
    if isinstance(value, dict):
        for key, item in value.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(item))


def _common(found: Path, wanted: Path) -> int:
    """How much of `wanted` is named by `found`, which may go no further."""
    return len(found) if found == wanted[: len(found)] else 0
