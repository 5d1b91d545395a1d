"""Changes to bytes: of any kind, and of the JSON in them, by a source of chance that repeats."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

MAX_BYTES: Final = 2**20
DEEP: Final = 3000
"""Deeper than Python's stack, and than any document of ours."""

NUMBERS: Final = (0, 1, -1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400)
TEXTS: Final = (
    "",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "a\0b",
    "a\nb",
    "a\x0cb\x85c\u2028d",
    "-rf",
    "--help",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "%s%n{}",
    "vol-0123456789abcdef0/../x",
    "\N{ARABIC-INDIC DIGIT THREE}",
    "\u00b2",
    "A" * 5000,
    "9" * 5000,
    "1e999",
    "nan",
)
_PIECES: Final = (
    b"\0",
    b"\n",
    b"\x0c",
    b"\xff",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\",
    b"\\ud800",
    b"../",
    b"-",
    b"=",
    b" ",
    b"1" * 40,
    b"1e999",
    b"99999999999999999999",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x80" + bytes(7),
)


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the seeds, changed once to four times."""
    data = chance.choice(seeds)
    for _ in range(chance.randint(1, 4)):
        change = chance.choice(_CHANGES)
        data = change(data, chance, seeds)[:MAX_BYTES]
    return data


Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def _place(data: bytes, chance: random.Random) -> int:
    return chance.randint(0, len(data))


def _flip(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    if not data:
        return b"\4"
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:start] + data[end:] if chance.random() < 0.5 else data[:end]


def _repeat(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    times = min(chance.choice((1, 1, 2, 50)), MAX_BYTES // max(end - start, 1) + 1)
    return data[:end] + data[start:end] * times + data[end:]


def _insert(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.choice(_PIECES) + data[at:]


def _overwrite(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    at, piece = _place(data, chance), chance.choice(_PIECES)
    return data[:at] + piece + data[at + len(piece) :]


def _splice(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[: _place(data, chance)] + other[_place(other, chance) :]


def _json(data: bytes, chance: random.Random, _seeds: Sequence[bytes]) -> bytes:
    """Another value somewhere in a line that is JSON; or another member, or one less."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        start = line.find(b"{")
        if start < 0:
            continue
        tail = line.rstrip(b"\0")
        try:
            value = json.loads(tail[start:])
        except (ValueError, RecursionError):
            continue
        changed = dump(_changed(value, chance))
        lines[number] = line[:start] + changed + line[len(tail) :]
        break
    return b"\n".join(lines)


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                return value | {chance.choice(TEXTS): value[name]}
            case 2:
                return value | {f"{name}x": value[name]}
        return value | {name: _changed(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        if chance.random() < 0.2:
            return value * chance.choice((0, 2, 300))
        return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
    return _other(value, chance)


def _other(value: Any, chance: random.Random) -> Any:
    """Mostly of the same type."""
    kinds = ("number", "text", "none", "list", "deep", "flag", "float")
    kind = chance.choice(kinds)
    if isinstance(value, bool) or chance.random() < 0.3:
        pass
    elif isinstance(value, int | float):
        kind = "number"
    elif isinstance(value, str):
        kind = "text"
    match kind:
        case "number":
            near = [value - 1, value + 1, -value, value * 2] if isinstance(value, int) else []
            return chance.choice([*NUMBERS, *near])
        case "text":
            known = []
            if isinstance(value, str):
                known = [value + "x", value[:-1], value.upper(), value + "\n"] * 3
            return chance.choice([*TEXTS, *known])
        case "none":
            return None
        case "list":
            return [value]
        case "deep":
            return _Deep(chance.choice((50, 500, DEEP)), chance.random() < 0.5)
        case "flag":
            return chance.random() < 0.5
    return chance.choice((1e308, -0.0, 5e-324))


class _Deep:
    """A value inside so many lists or objects."""

    def __init__(self, depth: int, is_list: bool) -> None:
        begin, end = ("[", "]") if is_list else ('{"a":', "}")
        self.text = begin * depth + "1" + end * depth


def dump(value: Any) -> bytes:
    """As msgspec writes it: no spaces. What cannot be said is escaped."""
    deep: list[str] = []

    def mark(item: object) -> str:
        assert isinstance(item, _Deep)
        deep.append(item.text)
        return f"<deep {len(deep) - 1}>"

    done = json.dumps(value, separators=(",", ":"), default=mark)
    for number, each in enumerate(deep):
        done = done.replace(f'"<deep {number}>"', each)
    return done.encode()


_CHANGES: Final[tuple[Change, ...]] = (
    _flip,
    _cut,
    _repeat,
    _insert,
    _overwrite,
    _splice,
    *([_json] * 8),
)
