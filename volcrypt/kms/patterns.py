"""Patterns of the policy language: `*`, `?`, policy variables, ARNs. Pure.

    *             any number of characters, or none
    ?             exactly one character
    ${key}        the value that the condition key has in the request
    ${key, 'x'}   the same, and `x` where the request has no value
    ${*} ${?} ${$}   the character itself

Variables are read in documents of version 2012-10-17 only; in older ones they are plain text. What
a variable stands for is taken literally: a `*` in a user's name is no wildcard. A variable that has
no value in the request, or several, is like nothing: its pattern fits no text.

A match looks for the pieces between the stars from left to right, each at its first place. So the
time it takes is bounded by the lengths of pattern and text multiplied: no policy stalls the KMS.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

Values = tuple[str, ...]
_ARN_PARTS: Final = 6
_TOKEN: Final = re.compile(r"\*|\?|\$\{([^{}]*)\}")
_VARIABLE: Final = re.compile(r"\s*([^,\s]+)\s*(?:,\s*'([^']*)'\s*)?")


class Facts(Protocol):
    """What is known of a request: the values of its condition keys."""

    def get(self, key: str) -> Values:
        """The values of the key, whose name is in lower case; none if the request lacks it."""
        ...


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """Facts that were all collected beforehand."""

    values: Mapping[str, Values]

    def get(self, key: str) -> Values:
        return self.values.get(key, ())


NO_FACTS: Final = KnownFacts({})


@dataclass(frozen=True, slots=True)
class _Variable:
    key: str
    default: str | None

    def resolve(self, facts: Facts) -> str | None:
        values = facts.get(self.key)
        if not values:
            return self.default
        return values[0] if len(values) == 1 else None


class _Wildcard:
    """One of the two constants below."""


_STAR: Final = _Wildcard()
_ANY_ONE: Final = _Wildcard()
_Token = str | _Variable | _Wildcard


def _tokenize(text: str, *, variables: bool, wildcards: bool) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    end = 0
    for found in _TOKEN.finditer(text):
        tokens.append(text[end : found.start()])
        end = found.end()
        if found[1] is None:
            wildcard = _STAR if found[0] == "*" else _ANY_ONE
            tokens.append(wildcard if wildcards else found[0])
        elif not variables:
            tokens.append(found[0])
        elif found[1] in ("*", "?", "$"):
            tokens.append(found[1])
        else:
            parts = _VARIABLE.fullmatch(found[1])
            tokens.append(
                _Variable("", None) if not parts else _Variable(parts[1].lower(), parts[2])
            )
    tokens.append(text[end:])
    return tuple(token for token in tokens if token != "")


class _Piece:
    """What stands between two stars. All that it fits has the same length."""

    __slots__ = ("_expression", "_text", "length")

    def __init__(self, tokens: Sequence[_Token]) -> None:
        texts = [token for token in tokens if isinstance(token, str)]
        self.length = sum(map(len, texts)) + len(tokens) - len(texts)
        self._text = "".join(texts)
        self._expression = None
        if len(texts) < len(tokens):
            parts = (re.escape(token) if isinstance(token, str) else "." for token in tokens)
            self._expression = re.compile("".join(parts), re.DOTALL)

    def fits(self, text: str, at: int) -> bool:
        if self._expression is None:
            return text.startswith(self._text, at)
        return self._expression.match(text, at) is not None

    def find(self, text: str, start: int) -> int:
        """The first place from `start` on where it fits; -1 for none."""
        if self._expression is None:
            return text.find(self._text, start)
        found = self._expression.search(text, start)
        return -1 if found is None else found.start()


class _Glob:
    """A pattern without variables, ready to be matched."""

    __slots__ = ("_pieces",)

    def __init__(self, tokens: Sequence[_Token]) -> None:
        pieces: list[list[_Token]] = [[]]
        for token in tokens:
            if token is _STAR:
                pieces.append([])
            else:
                pieces[-1].append(token)
        self._pieces = tuple(map(_Piece, pieces))

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` fits."""
        first, *others = self._pieces
        if not others:
            return len(text) == first.length and first.fits(text, 0)
        if not first.fits(text, 0):
            return False
        position = first.length
        for piece in others[:-1]:
            found = piece.find(text, position)
            if found < 0:
                return False
            position = found + piece.length
        last = others[-1]
        start = len(text) - last.length
        return start >= position and last.fits(text, start)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text to compare with, perhaps with wildcards and variables."""

    tokens: tuple[_Token, ...]
    ignores_case: bool = False
    _fixed: _Glob | None = field(init=False, repr=False, compare=False)
    """What is matched, whatever the request; None where that depends on it."""

    def __post_init__(self) -> None:
        is_fixed = not any(isinstance(token, _Variable) for token in self.tokens)
        object.__setattr__(self, "_fixed", self._glob(self.tokens) if is_fixed else None)

    @classmethod
    def parse(
        cls, text: str, *, variables: bool, wildcards: bool = True, ignore_case: bool = False
    ) -> "Pattern":
        return cls(_tokenize(text, variables=variables, wildcards=wildcards), ignore_case)

    def matches(self, text: str, facts: Facts = NO_FACTS) -> bool:
        """Whether the whole of `text` fits, for a request with these facts."""
        glob = self._fixed or self._resolved(facts)
        return glob is not None and glob.matches(text.lower() if self.ignores_case else text)

    def _resolved(self, facts: Facts) -> _Glob | None:
        resolved: list[_Token] = []
        for token in self.tokens:
            value = token.resolve(facts) if isinstance(token, _Variable) else token
            if value is None:
                return None
            resolved.append(value)
        return self._glob(resolved)

    def _glob(self, tokens: Sequence[_Token]) -> _Glob:
        if self.ignores_case:
            tokens = [token.lower() if isinstance(token, str) else token for token in tokens]
        return _Glob(tokens)


@dataclass(frozen=True, slots=True)
class ArnPattern:
    """An ARN to compare with, part by part: a star never reaches over a colon into the next part,
    but within the last part over everything. Where the pattern ends early in a star, the star is
    for the other parts too: `arn:aws:kms:*`."""

    parts: tuple[Pattern, ...]

    @classmethod
    def parse(cls, text: str, *, variables: bool) -> "ArnPattern | None":
        """None for what is no pattern of an ARN."""
        parts: list[list[_Token]] = [[]]
        for token in _tokenize(text, variables=variables, wildcards=True):
            if not isinstance(token, str):
                parts[-1].append(token)
                continue
            first, *others = token.split(":", _ARN_PARTS - len(parts))
            parts[-1].append(first)
            parts += [[other] for other in others]
        if len(parts) < _ARN_PARTS and parts[-1][-1:] == [_STAR]:
            parts += [[_STAR] for _ in range(_ARN_PARTS - len(parts))]
        if len(parts) != _ARN_PARTS or parts[0] != ["arn"]:
            return None
        return cls(tuple(Pattern(tuple(part)) for part in parts))

    def matches(self, text: str, facts: Facts = NO_FACTS) -> bool:
        """Whether `text` is an ARN that fits, for a request with these facts."""
        parts = text.split(":", _ARN_PARTS - 1)
        return len(parts) == _ARN_PARTS and all(
            pattern.matches(part, facts) for pattern, part in zip(self.parts, parts, strict=True)
        )
