"""Every condition operator: what fits, what a missing key means, what several values mean."""

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kms.policies import ALICE, KEY, allow, decide, deny, when
from volcrypt.errors import MalformedPolicyError
from volcrypt.kms.conditions import Condition, Quantifier, parse_condition
from volcrypt.kms.patterns import KnownFacts, Pattern
from volcrypt.kms.policy_document import forget_policies

YES, NO = True, False
ROLE = "arn:aws:iam::000000000000:role/ops/deployer"


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing is remembered of an earlier test."""
    forget_policies()


def holds(
    operator: str, wanted: object, *values: str, denies: bool = False, variables: bool = True
) -> bool:
    """Whether the condition holds for a request that has these values."""
    condition = parse_condition(operator, "Some:Key", wanted, variables=variables)
    facts = KnownFacts({"some:key": values, "aws:username": ("alice",), "aws:many": ("a", "b")})
    return condition.holds(facts, denies=denies)


# Operator | value in the policy | value in the request | whether it holds
ONE_VALUE: list[tuple[str, object, str, bool]] = [
    ("StringEquals", "a", "a", YES),
    ("StringEquals", "a", "A", NO),
    ("StringEquals", ["b", "a"], "a", YES),
    ("StringEquals", "a*", "ab", NO),
    ("StringEquals", "a*", "a*", YES),
    ("StringEquals", True, "true", YES),
    ("StringEquals", False, "false", YES),
    ("StringLike", "a?b*c", "a\nb\nc", YES),
    ("ArnLike", "arn:aws:sts::1:a:b:*", "arn:aws:sts::1:a:b:c", YES),
    ("ArnLike", "arn:aws:sts::1:a:b:d*", "arn:aws:sts::1:a:b:c", NO),
    ("ArnLike", "arn:aws:sts::1:*:c", "arn:aws:sts::1:a:b:c", YES),
    ("ArnLike", "arn:aws:kms:eu-*", "arn:aws:kms:eu-west-1:1:key/k", YES),
    ("ArnLike", "arn:aws:kms:eu-*", "arn:aws:kms:us-east-1:1:key/k", NO),
    ("ArnLike", "arn:aws:k*s*", "arn:aws:kms:us-east-1:1:key/k", YES),
    ("StringEquals", 7, "7", YES),
    ("StringNotEquals", "a", "a", NO),
    ("StringNotEquals", "a", "A", YES),
    ("StringNotEquals", ["b", "a"], "a", NO),
    ("StringNotEquals", ["b", "c"], "a", YES),
    ("StringEqualsIgnoreCase", "aB", "Ab", YES),
    ("StringEqualsIgnoreCase", "aB", "Abc", NO),
    ("StringNotEqualsIgnoreCase", "aB", "Ab", NO),
    ("StringLike", "a*c?", "abbbcd", YES),
    ("StringLike", "a*c?", "abbbc", NO),
    ("StringLike", "*", "", YES),
    ("StringLike", "?", "", NO),
    ("StringLike", "a[bc]", "ab", NO),
    ("StringLike", "a.c", "abc", NO),
    ("StringLike", "a*", "a\nb", YES),
    ("StringLike", "a*a", "a", NO),
    ("StringLike", "*ab*ba*", "aba", NO),
    ("StringLike", "A*", "ab", NO),
    ("StringNotLike", "a*", "ab", NO),
    ("StringNotLike", "a*", "b", YES),
    ("BinaryEquals", "YWJj", "YWJj", YES),
    ("BinaryEquals", "YWJj", "YW\nJj", NO),
    ("BinaryEquals", "YWJj", "\u00fc", NO),
    ("IpAddress", "10.1.2.3/8", "10.9.9.9", YES),
    ("NumericEquals", 7, "7.0", YES),
    ("NumericEquals", "7", "8", NO),
    ("NumericNotEquals", "7", "8", YES),
    ("NumericLessThan", "7", "6.9", YES),
    ("NumericLessThan", "7", "7", NO),
    ("NumericLessThanEquals", "7", "7", YES),
    ("NumericGreaterThan", "7", "30", YES),
    ("NumericGreaterThan", "7", "7", NO),
    ("NumericGreaterThanEquals", "7", "7", YES),
    ("NumericLessThan", "7", "x", NO),
    ("NumericEquals", "7", "NaN", NO),
    ("DateEquals", "2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", YES),
    ("DateEquals", "1800000000", "2027-01-15T08:00:00Z", YES),
    ("DateNotEquals", "1800000000", "2027-01-15T08:00:00Z", NO),
    ("DateLessThan", "2027-01-16", "2027-01-15T08:00:00Z", YES),
    ("DateLessThan", "2027-01-15", "2027-01-15T08:00:00Z", NO),
    ("DateLessThanEquals", "2027-01-15T08:00:00Z", "1800000000", YES),
    ("DateGreaterThan", "2027-01-15", "2027-01-15T08:00:00Z", YES),
    ("DateGreaterThanEquals", "2027-01-15T08:00:00Z", "1800000000", YES),
    ("DateGreaterThan", "2027-01-15", "soon", NO),
    ("Bool", "true", "true", YES),
    ("Bool", True, "True", YES),
    ("Bool", "false", "true", NO),
    ("Bool", "true", "yes", NO),
    ("BinaryEquals", "c2VjcmV0", "c2VjcmV0", YES),
    ("BinaryEquals", "c2VjcmV0", "c2VjcmV1", NO),
    ("BinaryEquals", "c2VjcmV0", "*", NO),
    ("IpAddress", "203.0.113.0/24", "203.0.113.9", YES),
    ("IpAddress", "203.0.113.0/24", "203.0.114.9", NO),
    ("IpAddress", "203.0.113.9", "203.0.113.9", YES),
    ("IpAddress", ["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", YES),
    ("IpAddress", "0.0.0.0/0", "localhost", NO),
    ("NotIpAddress", "203.0.113.0/24", "203.0.113.9", NO),
    ("NotIpAddress", "203.0.113.0/24", "198.51.100.1", YES),
    ("ArnEquals", ROLE, ROLE, YES),
    ("ArnEquals", "arn:aws:iam::*:role/ops/*", ROLE, YES),
    ("ArnLike", "arn:aws:iam::000000000000:role/*", ROLE, YES),
    ("ArnLike", "arn:aws:iam::0000?0000000:role/ops/deployer", ROLE, YES),
    ("ArnLike", "arn:aws:iam::111111111111:role/*", ROLE, NO),
    ("ArnLike", "arn:aws:*:role/*", "arn:aws:iam::0:role/x", NO),
    ("ArnLike", "arn:aws:iam::*:role/*", "no arn", NO),
    ("ArnLike", "*", ROLE, YES),
    ("ArnNotEquals", ROLE, ROLE, NO),
    ("ArnNotLike", "arn:aws:iam::*:user/*", ROLE, YES),
    ("ArnNotLike", "arn:aws:iam::*:role/*", ROLE, NO),
    ("Null", "true", "x", NO),
    ("Null", "false", "x", YES),
    ("Null", False, "x", YES),
    ("StringEqualsIfExists", "a", "a", YES),
    ("StringEqualsIfExists", "a", "b", NO),
]


@pytest.mark.parametrize(("operator", "wanted", "value", "answer"), ONE_VALUE)
def test_one_value(operator: str, wanted: object, value: str, answer: bool) -> None:
    assert holds(operator, wanted, value) is answer
    assert holds(operator, wanted, value, denies=True) is answer
    if operator != "Null":
        # One value is a set of one.
        assert holds(f"ForAllValues:{operator}", wanted, value) is answer
        assert holds(f"ForAnyValue:{operator}", wanted, value) is answer


# Operator | whether it holds when the request has no such key
MISSING: list[tuple[str, object, bool]] = [
    ("StringEquals", "a", NO),
    ("StringNotEquals", "a", YES),
    ("StringEqualsIgnoreCase", "a", NO),
    ("StringNotEqualsIgnoreCase", "a", YES),
    ("StringLike", "*", NO),
    ("StringNotLike", "*", YES),
    ("NumericEquals", "1", NO),
    ("NumericNotEquals", "1", YES),
    ("NumericLessThan", "1", NO),
    ("DateEquals", "1", NO),
    ("DateNotEquals", "1", YES),
    ("DateGreaterThan", "1", NO),
    ("Bool", "false", NO),
    ("BinaryEquals", "", NO),
    ("IpAddress", "0.0.0.0/0", NO),
    ("NotIpAddress", "0.0.0.0/0", YES),
    ("ArnEquals", "*", NO),
    ("ArnLike", "*", NO),
    ("ArnNotEquals", "*", YES),
    ("ArnNotLike", "*", YES),
    ("Null", "true", YES),
    ("Null", "false", NO),
    ("StringEqualsIfExists", "a", YES),
    ("StringNotEqualsIfExists", "a", YES),
    ("NumericLessThanIfExists", "1", YES),
    ("BoolIfExists", "true", YES),
    ("IpAddressIfExists", "10.0.0.0/8", YES),
    ("ArnLikeIfExists", "arn:aws:iam::1:*", YES),
    ("ForAllValues:StringEquals", "a", YES),
    ("ForAllValues:StringNotEquals", "a", YES),
    ("ForAnyValue:StringEquals", "a", NO),
    ("ForAnyValue:StringNotEquals", "a", NO),
    ("ForAnyValue:StringEqualsIfExists", "a", YES),
]


@pytest.mark.parametrize(("operator", "wanted", "answer"), MISSING)
def test_a_key_that_the_request_lacks(operator: str, wanted: object, answer: bool) -> None:
    assert holds(operator, wanted) is answer
    assert holds(operator, wanted, denies=True) is answer


# Operator | values in the policy | values in the request | in an Allow | in a Deny
SEVERAL: list[tuple[str, list[str], tuple[str, ...], bool, bool]] = [
    ("ForAllValues:StringEquals", ["a", "b", "c"], ("a", "b"), YES, YES),
    ("ForAllValues:StringEquals", ["a", "c"], ("a", "b"), NO, NO),
    ("ForAllValues:StringLike", ["a*"], ("a1", "a2"), YES, YES),
    ("ForAllValues:StringNotEquals", ["x", "y"], ("a", "b"), YES, YES),
    ("ForAllValues:StringNotEquals", ["x", "b"], ("a", "b"), NO, NO),
    ("ForAnyValue:StringEquals", ["b", "z"], ("a", "b"), YES, YES),
    ("ForAnyValue:StringEquals", ["y", "z"], ("a", "b"), NO, NO),
    ("ForAnyValue:StringNotEquals", ["a"], ("a", "b"), YES, YES),
    ("ForAnyValue:StringNotEquals", ["a", "b"], ("a", "b"), NO, NO),
    # Without a quantifier: never for an Allow, and for a Deny if one of them would.
    ("StringEquals", ["a", "b"], ("a", "b"), NO, YES),
    ("StringEquals", ["b"], ("a", "b"), NO, YES),
    ("StringEquals", ["c"], ("a", "b"), NO, NO),
    ("StringNotEquals", ["c"], ("a", "b"), NO, YES),
    ("StringNotEquals", ["a"], ("a", "b"), NO, YES),
    ("StringNotEquals", ["a", "b"], ("a", "b"), NO, NO),
    ("Null", ["false"], ("a", "b"), YES, YES),
]


@pytest.mark.parametrize(("operator", "wanted", "values", "allowing", "denying"), SEVERAL)
def test_several_values(
    operator: str, wanted: list[str], values: tuple[str, ...], allowing: bool, denying: bool
) -> None:
    assert holds(operator, wanted, *values) is allowing
    assert holds(operator, wanted, *values, denies=True) is denying


# Operator | pattern | value in the request of alice | whether it holds
VARIABLES: list[tuple[str, str, str, bool]] = [
    ("StringEquals", "${aws:username}", "alice", YES),
    ("StringEquals", "${AWS:UserName}", "alice", YES),
    ("StringEquals", "${aws:username}", "bob", NO),
    ("StringLike", "team-${aws:username}-*", "team-alice-1", YES),
    ("StringEquals", "${aws:absent}", "${aws:absent}", NO),
    ("StringEquals", "${aws:absent}", "", NO),
    ("StringNotEquals", "${aws:absent}", "x", YES),
    ("StringEquals", "${aws:absent, 'nobody'}", "nobody", YES),
    ("StringEquals", "${aws:username, 'nobody'}", "nobody", NO),
    ("StringEquals", "${aws:many}", "a", NO),
    ("StringEquals", "${}", "", NO),
    ("StringLike", "${*}", "*", YES),
    ("StringLike", "${*}", "x", NO),
    ("StringLike", "${?}${$}", "?$", YES),
    ("StringLike", "a$b", "a$b", YES),
    ("StringLike", "a${b", "a${b", YES),
    ("ArnLike", "arn:aws:iam::*:user/${aws:username}", ALICE, YES),
    ("Bool", "${aws:absent, 'true'}", "true", YES),
    ("Bool", "${*}", "true", NO),
    ("Bool", "${aws:absent, 'true'}*", "true", NO),
]


@pytest.mark.parametrize(("operator", "pattern", "value", "answer"), VARIABLES)
def test_variables(operator: str, pattern: str, value: str, answer: bool) -> None:
    assert holds(operator, pattern, value) is answer


def test_a_wildcard_in_what_a_variable_stands_for_is_none() -> None:
    condition = parse_condition("StringLike", "k", "${aws:username}", variables=True)
    facts = KnownFacts({"k": ("alice",), "aws:username": ("*",)})
    assert not condition.holds(facts, denies=False)


def test_older_documents_have_no_variables() -> None:
    assert holds("StringEquals", "${aws:username}", "${aws:username}", variables=False)
    assert not holds("StringEquals", "${aws:username}", "alice", variables=False)
    statement = [allow(ALICE, Condition=when("StringEquals", "a:b", "${aws:username}"))]
    facts = {"a:b": ("alice",), "aws:username": ("alice",)}
    new, old = (
        decide(ALICE, "Decrypt", key_policy=statement, facts=facts, version=version)
        for version in ("2012-10-17", "2008-10-17")
    )
    assert (new.allowed, old.allowed) == (True, False)


def test_a_variable_in_a_resource() -> None:
    of_user = "arn:aws:kms:*:*:key/${kms:Named}"
    for named, answer in ((KEY.rpartition("/")[2], YES), ("x", NO), ("*", NO)):
        facts = {"kms:Named": (named,)}
        policy = [allow(ALICE, Resource=of_user)]
        assert decide(ALICE, "Decrypt", key_policy=policy, facts=facts).allowed is answer


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("StringMatches", "a"),
        ("stringequals", "a"),
        ("NullIfExists", "true"),
        ("Null", "maybe"),
        ("Null", []),
        ("ForSomeValues:StringEquals", "a"),
        ("ForAllValues:ForAnyValue:StringEquals", "a"),
        ("StringEqualsIfExistsIfExists", "a"),
        ("NumericEquals", "seven"),
        ("NumericEquals", "Infinity"),
        ("DateEquals", "yesterday"),
        ("Bool", "yes"),
        ("BinaryEquals", "***"),
        ("IpAddress", "203.0.113"),
        ("ArnEquals", "x"),
        ("ArnEquals", "arn:aws:iam"),
        ("StringEquals", None),
        ("StringEquals", {"a": "b"}),
        ("StringEquals", [["a"]]),
    ],
)
def test_what_is_no_condition_is_malformed(operator: str, value: Any) -> None:
    with pytest.raises(MalformedPolicyError):
        parse_condition(operator, "k", value, variables=True)


@pytest.mark.parametrize(
    ("operator", "value", "message"),
    [
        ("Null", "maybe", "the condition operator Null takes true or false"),
        ("StringMatches", "a", "there is no condition operator StringMatches"),
        (
            "NumericEquals",
            "seven",
            "the condition operator NumericEquals does not take the value of k",
        ),
        ("StringEquals", None, "the value of a condition is neither text, number nor boolean"),
    ],
)
def test_what_is_said_of_a_condition_that_is_none(operator: str, value: Any, message: str) -> None:
    with pytest.raises(MalformedPolicyError) as raised:
        parse_condition(operator, "k", value, variables=True)
    assert str(raised.value) == message


def test_null_asks_for_nothing_else() -> None:
    assert parse_condition("Null", "K", [True, "FALSE"], variables=True) == Condition(
        key="k",
        quantifier=Quantifier.ONE,
        tests=(),
        is_negated=False,
        if_exists=False,
        wants_missing=frozenset({True, False}),
    )


def test_a_flag_that_another_key_has() -> None:
    condition = parse_condition("Bool", "k", "${a:flag}", variables=True)
    for flag, answer in (("true", YES), ("false", NO)):
        facts = KnownFacts({"k": ("true",), "a:flag": (flag,)})
        assert condition.holds(facts, denies=False) is answer


def test_every_condition_of_a_statement_must_hold() -> None:
    both = when("StringEquals", "a:b", "1") | when("NumericLessThan", "a:c", "5")
    for one, two, answer in (("1", "4", YES), ("2", "4", NO), ("1", "6", NO)):
        facts = {"a:b": (one,), "a:c": (two,)}
        policy = [allow(ALICE, Condition=both)]
        assert decide(ALICE, "Decrypt", key_policy=policy, facts=facts).allowed is answer


def test_context_keys_that_differ_in_case_alone_open_nothing_and_close_all() -> None:
    key = "kms:EncryptionContext:Dept"
    facts = {key: ("IT", "HR")}
    given = [allow(ALICE, Condition=when("StringEquals", key, "IT"))]
    taken = [allow(ALICE), deny(ALICE, Condition=when("StringNotEquals", key, "IT"))]
    assert not decide(ALICE, "Decrypt", key_policy=given, facts=facts).allowed
    assert not decide(ALICE, "Decrypt", key_policy=taken, facts=facts).allowed


texts = st.text(alphabet="ab*?", max_size=8)


def reference(pattern: str, text: str) -> bool:
    """The definition of wildcards, one character at a time."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(reference(pattern[1:], text[i:]) for i in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and reference(pattern[1:], text[1:])


@settings(deadline=None)
@given(texts, st.text(alphabet="ab", max_size=8))
@example("ab*?b*", "ab")  # what was fitted once does not fit again
@example("*?b*", "aaaaaaaa")
def test_wildcards_are_what_they_are_defined_as(pattern: str, text: str) -> None:
    assert holds("StringLike", pattern, text) is reference(pattern, text)


def test_no_pattern_takes_long() -> None:
    assert not holds("StringLike", "*a" * 2000 + "b", "a" * 8000)


def test_a_time_without_a_zone_is_utc_wherever_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert holds("DateEquals", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_pattern_minds_case_unless_it_is_told_not_to() -> None:
    assert not Pattern.parse("A", variables=False).matches("a")
    assert Pattern.parse("A", variables=False, ignore_case=True).matches("a")
    assert KnownFacts({}).get("a") == ()
