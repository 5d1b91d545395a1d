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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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


class _Glob:
    """A pattern without variables, ready to be matched."""

    __slots__ = ("_pieces",)

    def __init__(self, tokens: tuple[_Token, ...]) -> None:
        pieces: list[tuple[str, int]] = [("", 0)]
        for token in tokens:
            expression, length = pieces[-1]
            if token is _STAR:
                pieces.append(("", 0))
            elif isinstance(token, str):
                pieces[-1] = (expression + re.escape(token), length + len(token))
            else:
                pieces[-1] = (expression + ".", length + 1)
        self._pieces = [(re.compile(text, re.DOTALL), length) for text, length in pieces]

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` fits."""
        (first, length), *others = self._pieces
        if not others:
            return len(text) == length and first.match(text) is not None
        if first.match(text) is None:
            return False
        position = length
        for piece, _ in others[:-1]:
            found = piece.search(text, position)
            if found is None:
                return False
            position = found.end()
        last, length = others[-1]
        start = len(text) - length
        return start >= position and last.match(text, start) is not None


_glob: Final = lru_cache(maxsize=4096)(_Glob)


@lru_cache(maxsize=4096)
def _lowered(tokens: tuple[_Token, ...]) -> tuple[_Token, ...]:
    return tuple(token.lower() if isinstance(token, str) else token for token in tokens)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text to compare with, perhaps with wildcards and variables."""

    tokens: tuple[_Token, ...]
    ignores_case: bool = False

    @classmethod
    def parse(
        cls, text: str, *, variables: bool, wildcards: bool = True, ignore_case: bool = False
    ) -> "Pattern":
        return cls(_tokenize(text, variables=variables, wildcards=wildcards), ignore_case)

    def matches(self, text: str, facts: Facts = NO_FACTS) -> bool:
        """Whether the whole of `text` fits, for a request with these facts."""
        tokens = self._resolved(facts)
        if tokens is None:
            return False
        if self.ignores_case:
            tokens = _lowered(tokens)
            text = text.lower()
        return _glob(tokens).matches(text)

    def _resolved(self, facts: Facts) -> tuple[_Token, ...] | None:
        if not any(isinstance(token, _Variable) for token in self.tokens):
            return self.tokens
        resolved: list[_Token] = []
        for token in self.tokens:
            value = token.resolve(facts) if isinstance(token, _Variable) else token
            if value is None:
                return None
            resolved.append(value)
        return tuple(resolved)


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
        return cls(tuple(Pattern(tuple(t for t in part if t != "")) for part in parts))

    def matches(self, text: str, facts: Facts = NO_FACTS) -> bool:
        """Whether `text` is an ARN that fits, for a request with these facts."""
        parts = text.split(":", _ARN_PARTS - 1)
        return len(parts) == _ARN_PARTS and all(
            pattern.matches(part, facts) for pattern, part in zip(self.parts, parts, strict=True)
        )
