"""Conditions of policy statements: every operator of the IAM policy language. Pure.

A condition compares what the request has under a *condition key* with the values in the policy; it
fits when one of them fits (for a negated operator: when none does).

    the request lacks the key      holds for a negated operator (StringNotEquals, ...), fails for
                                   the others; with ...IfExists it holds
    ForAllValues:                  holds when each of the request's values fits; so also when
                                   there is none
    ForAnyValue:                   holds when one of the request's values fits; so not when there
                                   is none
    Null                           "true" holds when the request lacks the key, "false" when not

Without ForAllValues or ForAnyValue one value is compared. A request that has several under the key
(two context keys that differ in case alone, say) never satisfies an Allow that way, and meets a
Deny if one of the values would.

Names of condition keys are compared without regard to case. A key that nobody fills in is one that
the request lacks. A value in the request that is no number, date, address or ARN fits nothing.
"""

import ipaddress
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from volcrypt.errors import MalformedPolicyError
from volcrypt.kms.patterns import ArnPattern, Facts, Pattern

Test = Callable[[str, Facts], bool]
"""Whether a value of the request fits one value of the policy."""
Maker = Callable[[str, bool], Test]
"""Makes the test from the policy's value; the flag says whether variables are read in it. Raises
ValueError for a value that the operator cannot compare with."""


class Quantifier(Enum):
    ONE = ""
    ALL = "ForAllValues:"
    ANY = "ForAnyValue:"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. `tests` is empty for Null, which only asks `wants_missing`."""

    key: str
    quantifier: Quantifier
    tests: tuple[Test, ...]
    is_negated: bool
    if_exists: bool
    wants_missing: frozenset[bool] | None = None

    def holds(self, facts: Facts, *, denies: bool) -> bool:
        """Whether it holds for the request; `denies` is whether it stands in a Deny."""
        values = facts.get(self.key)
        if self.wants_missing is not None:
            return (not values) in self.wants_missing
        if not values:
            if self.if_exists or self.quantifier is Quantifier.ALL:
                return True
            return self.is_negated and self.quantifier is Quantifier.ONE
        fits = (self._fits(value, facts) for value in values)
        if self.quantifier is Quantifier.ALL:
            return all(fits)
        if self.quantifier is Quantifier.ANY or denies or len(values) == 1:
            return any(fits)
        return False

    def _fits(self, value: str, facts: Facts) -> bool:
        return any(test(value, facts) for test in self.tests) != self.is_negated


def parse_condition(operator: str, key: str, values: Any, *, variables: bool) -> Condition:
    """Raises MalformedPolicyError for an operator that there is not, and for a value that it
    cannot compare with."""
    name = operator
    quantifier = Quantifier.ONE
    for prefixed in (Quantifier.ALL, Quantifier.ANY):
        if name.startswith(prefixed.value):
            quantifier, name = prefixed, name.removeprefix(prefixed.value)
            break
    if_exists = name.endswith("IfExists") and name != "NullIfExists"
    name = name.removesuffix("IfExists") if if_exists else name
    texts = [_text(value) for value in (values if isinstance(values, list) else [values])]
    if name == "Null":
        if not texts or not all(text.lower() in _BOOLEANS for text in texts):
            raise MalformedPolicyError(f"the condition operator {operator} takes true or false")
        wanted = frozenset(_BOOLEANS[text.lower()] for text in texts)
        return Condition(key.lower(), quantifier, (), False, False, wanted)
    if name not in _OPERATORS:
        raise MalformedPolicyError(f"there is no condition operator {operator}")
    make, is_negated = _OPERATORS[name]
    try:
        tests = tuple(make(text, variables) for text in texts)
    except ValueError as error:
        raise MalformedPolicyError(
            f"the condition operator {operator} does not take the value of {key}"
        ) from error
    return Condition(key.lower(), quantifier, tests, is_negated, if_exists)


def _text(value: Any) -> str:
    """Values may be written as JSON texts, numbers and booleans."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise MalformedPolicyError("the value of a condition is neither text, number nor boolean")


# ---------------------------------------------------------------- the operators


def _string(*, wildcards: bool, ignore_case: bool = False) -> Maker:
    def make(text: str, variables: bool) -> Test:
        return Pattern.parse(
            text, variables=variables, wildcards=wildcards, ignore_case=ignore_case
        ).matches

    return make


def _arn(text: str, variables: bool) -> Test:
    """ArnEquals is the same as ArnLike."""
    if text == "*":
        return lambda value, facts: True
    pattern = ArnPattern.parse(text, variables=variables)
    if pattern is None:
        raise ValueError(text)
    return pattern.matches


_BOOLEANS: Final = MappingProxyType({"true": True, "false": False})


def _bool(text: str, variables: bool) -> Test:
    if "${" not in text and text.lower() not in _BOOLEANS:
        raise ValueError(text)
    pattern = Pattern.parse(text, variables=variables, wildcards=False, ignore_case=True)
    return lambda value, facts: value.lower() in _BOOLEANS and pattern.matches(value, facts)


def _binary(text: str, variables: bool) -> Test:
    """Both sides are base64."""
    wanted = b64decode(text, validate=True)

    def test(value: str, facts: Facts) -> bool:
        try:
            return b64decode(value, validate=True) == wanted
        except ValueError:  # text that is no ASCII, too
            return False

    return test


def _address(text: str, variables: bool) -> Test:
    """An address, or a network in CIDR notation."""
    network = ipaddress.ip_network(text, strict=False)

    def test(value: str, facts: Facts) -> bool:
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _number(text: str) -> Decimal:
    """Raises ValueError."""
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error
    if not number.is_finite():
        raise ValueError(text)
    return number


def _moment(text: str) -> Decimal:
    """Seconds since 1970-01-01 UTC, from those or from a date of ISO 8601. Raises ValueError."""
    try:
        return _number(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return Decimal((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _compared(read: Callable[[str], Decimal], fits: Callable[[Decimal, Decimal], bool]) -> Maker:
    """`fits` gets the request's value, then the policy's."""

    def make(text: str, variables: bool) -> Test:
        wanted = read(text)

        def test(value: str, facts: Facts) -> bool:
            try:
                return fits(read(value), wanted)
            except ValueError:
                return False

        return test

    return make


def _ordered(prefix: str, read: Callable[[str], Decimal]) -> dict[str, tuple[Maker, bool]]:
    return {
        f"{prefix}Equals": (_compared(read, lambda value, wanted: value == wanted), False),
        f"{prefix}NotEquals": (_compared(read, lambda value, wanted: value == wanted), True),
        f"{prefix}LessThan": (_compared(read, lambda value, wanted: value < wanted), False),
        f"{prefix}LessThanEquals": (_compared(read, lambda value, wanted: value <= wanted), False),
        f"{prefix}GreaterThan": (_compared(read, lambda value, wanted: value > wanted), False),
        f"{prefix}GreaterThanEquals": (
            _compared(read, lambda value, wanted: value >= wanted),
            False,
        ),
    }


_EXACT: Final = _string(wildcards=False)
_CASELESS: Final = _string(wildcards=False, ignore_case=True)
_LIKE: Final = _string(wildcards=True)
_OPERATORS: Final = MappingProxyType(
    {
        "StringEquals": (_EXACT, False),
        "StringNotEquals": (_EXACT, True),
        "StringEqualsIgnoreCase": (_CASELESS, False),
        "StringNotEqualsIgnoreCase": (_CASELESS, True),
        "StringLike": (_LIKE, False),
        "StringNotLike": (_LIKE, True),
        **_ordered("Numeric", _number),
        **_ordered("Date", _moment),
        "Bool": (_bool, False),
        "BinaryEquals": (_binary, False),
        "IpAddress": (_address, False),
        "NotIpAddress": (_address, True),
        "ArnEquals": (_arn, False),
        "ArnLike": (_arn, False),
        "ArnNotEquals": (_arn, True),
        "ArnNotLike": (_arn, True),
    }
)
