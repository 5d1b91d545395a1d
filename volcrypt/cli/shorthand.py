"""The short form of structures on the command line, as the aws command line has it. Pure.

    NAME=VALUE,NAME=VALUE       a structure; NAME is letters, digits and `_.:/@+-`
    VALUE                       text up to the next `,`, `}` or `]`; or in quotes, '...' or "...",
                                with `\\` before a quote or backslash; or {NAME=VALUE,...}; or
                                [VALUE,...]

What begins with `{"`, `{}` or `[` is JSON instead. Nothing is guessed: every text has one reading,
or is refused.
"""

import re
from typing import Any, Final

from volcrypt.errors import InvalidArgumentError
from volcrypt.kms.protocol import parse_json

_NAME: Final = re.compile(r"[\w.:/@+ -]+")
_RAW: Final = re.compile(r"[^,{}\[\]]*")
_JSON: Final = re.compile(r"\s*(\[|\{\s*[\"}])")
_MAX_DEPTH: Final = 8


def parse_structure(text: str) -> Any:
    """The dict, or the list if it is JSON, that `text` describes. Raises InvalidArgumentError and
    SerializationError."""
    if _JSON.match(text):
        # In an object, so that the rules for requests (no name twice, a bound on length) hold.
        found = parse_json(b'{"value":' + text.encode(errors="surrogateescape") + b"}")
        if len(found) > 1:
            raise InvalidArgumentError(f"something follows the JSON in {text!r}")
        return found["value"]
    return _Parser(text).pairs(end="")


class _Parser:
    """Reads from the left; `_at` is the next character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def pairs(self, *, end: str) -> dict[str, Any]:
        """NAME=VALUE,... up to `end`, which is eaten; an empty `end` is that of the text."""
        found: dict[str, Any] = {}
        while True:
            name = self._match(_NAME).strip()
            if not name:
                raise self._problem("a name")
            if name in found:
                raise InvalidArgumentError(f"{name!r} stands twice in {self._text!r}")
            self._eat("=")
            found[name] = self._value()
            if self._ends(end):
                return found

    def _items(self) -> list[Any]:
        found = [self._value()]
        while not self._ends("]"):
            found.append(self._value())
        return found

    def _value(self) -> Any:
        next_ = self._text[self._at : self._at + 1]
        if next_ in ("{", "["):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self._problem("less depth")
            self._at += 1
            value: Any = self.pairs(end="}") if next_ == "{" else self._items()
            self._depth -= 1
            return value
        if next_ in ("'", '"'):
            return self._quoted(next_)
        return self._match(_RAW)

    def _quoted(self, quote: str) -> str:
        self._at += 1
        found = []
        while self._text[self._at : self._at + 1] != quote:
            if self._text[self._at : self._at + 1] == "\\":
                self._at += 1
            if self._at >= len(self._text):
                raise self._problem("a closing quote")
            found.append(self._text[self._at])
            self._at += 1
        self._at += 1
        return "".join(found)

    def _ends(self, end: str) -> bool:
        """Whether `end` follows; else a comma must. Both are eaten."""
        if end and self._text[self._at : self._at + 1] == end:
            self._at += 1
            return True
        if not end and self._at == len(self._text):
            return True
        self._eat(",")
        return False

    def _eat(self, sign: str) -> None:
        if self._text[self._at : self._at + 1] != sign:
            raise self._problem(repr(sign))
        self._at += 1

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _problem(self, wanted: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"{self._text!r} is not of the form NAME=VALUE,...: {wanted} is missing at character "
            f"{self._at + 1}"
        )
