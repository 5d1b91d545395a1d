"""Policy documents: what is read, and what is refused."""

import json
from typing import Any

import pytest

from tests.kms.policies import (
    ALICE,
    AWAY,
    BOB,
    HOME,
    ROOT,
    Statement,
    allow,
    allow_all_but,
    deny,
    document,
    when,
)
from tests.kms.policies import (
    KEY as KEY_ARN,
)
from volcrypt.errors import InvalidArnError, MalformedPolicyError
from volcrypt.kms.patterns import ArnPattern, KnownFacts, Pattern
from volcrypt.kms.policy_document import (
    SHORT_CHARACTERS,
    Effect,
    Patterns,
    PolicyKind,
    Principals,
    forget_policies,
    parse_policy,
    principal_account,
)
from volcrypt.kms.policy_document import Statement as Parsed

KEY, IDENTITY = PolicyKind.KEY, PolicyKind.IDENTITY
INVALID = "Policy contains a statement with one or more invalid principals."
WITHOUT = "Policy contains a statement with no principal."


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing is remembered of an earlier test."""
    forget_policies()


def parse(value: object, kind: PolicyKind = KEY) -> None:
    parse_policy(value if isinstance(value, str) else json.dumps(value), kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "my policy",
        "[]",
        "1",
        "{",
        "[" * 100_000,
        "{}",
        '{"Statement": []}',
        '{"Statement": 1}',
        '{"Statement": [1]}',
        '{"Statement": {}, "Statement": {}}',
    ],
)
def test_what_is_no_document_is_malformed(text: str) -> None:
    for kind in PolicyKind:
        with pytest.raises(MalformedPolicyError):
            parse_policy(text, kind)


@pytest.mark.parametrize(
    "members",
    [
        {"Effect": "allow"},
        {"Effect": None},
        {"Sid": 1},
        {"Conditions": {}},
        {"Action": 7},
        {"Action": ["kms:*", 7]},
        {"Action": "Decrypt"},
        {"Action": "kms:a:b"},
        {"NotAction": "kms:*"},
        {"NotResource": "*"},
        {"NotPrincipal": {"AWS": ROOT}},
        {"Resource": "key/*"},
        {"Resource": "arn:aws:kms"},
        {"Resource": "arn:aws:kms:us-east-1"},
        {"Condition": []},
        {"Condition": {"StringEquals": "a"}},
        {"Condition": {"StringMatches": {"a": "b"}}},
    ],
)
def test_statements_that_are_not_understood(members: dict[str, Any]) -> None:
    with pytest.raises(MalformedPolicyError):
        parse_policy(document([allow(ROOT) | members]), KEY)


@pytest.mark.parametrize(
    ("principal", "message"),
    [
        (None, WITHOUT),
        ({}, WITHOUT),
        ({"AWS": []}, WITHOUT),
        ("alice", INVALID),
        (ROOT, INVALID),
        ([ROOT], INVALID),
        ({"AWS": "alice"}, INVALID),
        ({"AWS": "1234"}, INVALID),
        ({"AWS": "AIDACKCEVSQ6C2EXAMPLE"}, INVALID),
        ({"CanonicalUser": "79a59d"}, INVALID),
        ({"Service": "*"}, INVALID),
        ({"Federated": "*"}, INVALID),
        ({"Federated": ""}, INVALID),
        ({"Users": "*"}, INVALID),
    ],
)
def test_principals_that_are_none(principal: object, message: str) -> None:
    statement = allow(Principal=principal)
    with pytest.raises(MalformedPolicyError) as raised:
        parse_policy(document([statement]), KEY)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "arn",
    [
        f"arn:aws:iam::{HOME}:group/admins",
        f"arn:aws:iam::{HOME}:user/*",
        f"arn:aws:iam::{HOME}:root/x",
        "arn:aws:iam::1:root",
        "arn:aws:s3:::bucket",
    ],
)
def test_arns_that_are_no_principals(arn: str) -> None:
    assert principal_account(arn) is None
    with pytest.raises(InvalidArnError) as raised:
        parse_policy(document([allow(arn)]), KEY)
    assert str(raised.value) == "An ARN in the specified key policy is invalid."


@pytest.mark.parametrize(
    "arn",
    [
        ROOT,
        ALICE,
        f"arn:aws:iam::{HOME}:role/service-role/deployer",
        f"arn:aws:sts::{HOME}:assumed-role/deployer/session",
        f"arn:aws:sts::{HOME}:federated-user/alice",
    ],
)
def test_arns_of_principals(arn: str) -> None:
    assert principal_account(arn) == HOME
    parse_policy(document([allow(arn)]), KEY)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"Principal": {"AWS": ROOT}}, "Policy document should not specify a principal."),
        ({"NotPrincipal": {"AWS": ROOT}}, "Policy document should not specify a principal."),
        ({"Action": []}, "Policy statement must contain actions."),
        ({"Resource": []}, "Policy statement must contain resources."),
        ({"Resource": "x"}, 'Resource x must be in ARN format or "*".'),
    ],
)
def test_identity_policies_with_the_texts_of_aws(members: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedPolicyError) as raised:
        parse_policy(document([allow() | members]), IDENTITY)
    assert str(raised.value) == message


@pytest.mark.parametrize("version", ["2012-10-17", "2008-10-17"])
def test_versions(version: str) -> None:
    parse_policy(document([allow()], version), IDENTITY)
    with pytest.raises(MalformedPolicyError):
        parse_policy(document([allow()], version + "x"), IDENTITY)


def test_one_statement_may_stand_without_a_list_and_the_rest_is_optional() -> None:
    statement: Statement = allow(ROOT, Sid="any text", Condition={})
    parse({"Statement": statement, "Id": "mine"})
    parse({"Statement": {name: statement[name] for name in ("Effect", "Principal")}})


def only(statement: Statement, kind: PolicyKind = KEY, version: str = "2012-10-17") -> Parsed:
    (parsed,) = parse_policy(document([statement], version), kind).statements
    return parsed


def principals(
    anyone: bool = False, accounts: tuple[str, ...] = (), arns: tuple[str, ...] = ()
) -> Principals:
    return Principals(anyone=anyone, accounts=frozenset(accounts), arns=frozenset(arns))


ROLE = f"arn:aws:iam::{HOME}:role/root"
SESSION = f"arn:aws:sts::{AWAY}:assumed-role/deployer/session"

# What a key policy says of principals | what is read
NAMED: list[tuple[dict[str, Any], Principals]] = [
    ({"Principal": "*"}, principals(anyone=True)),
    ({"Principal": {"AWS": "*"}}, principals(anyone=True)),
    ({"Principal": {"AWS": ["*", ALICE]}}, principals(anyone=True, arns=(ALICE,))),
    ({"Principal": {"AWS": ROOT}}, principals(accounts=(HOME,))),
    ({"Principal": {"AWS": [HOME, AWAY]}}, principals(accounts=(HOME, AWAY))),
    (
        {"Principal": {"AWS": [ALICE, ROLE, SESSION, HOME]}},
        principals(accounts=(HOME,), arns=(ALICE, ROLE, SESSION)),
    ),
    ({"Principal": {"Service": "ec2.amazonaws.com"}}, principals()),
    ({"Principal": {"Federated": "idp.example", "AWS": BOB}}, principals(arns=(BOB,))),
    ({"Principal": {"Service": "ec2.amazonaws.com", "AWS": "*"}}, principals(anyone=True)),
]


@pytest.mark.parametrize(("members", "expected"), NAMED)
def test_whom_a_statement_names(members: dict[str, Any], expected: Principals) -> None:
    parsed = only(allow(**members))
    assert (parsed.principals, parsed.excludes_principals) == (expected, False)


def test_whom_a_statement_names_not() -> None:
    parsed = only(allow_all_but(ALICE, ROOT))
    assert parsed.principals == principals(accounts=(HOME,), arns=(ALICE,))
    assert parsed.excludes_principals
    assert only(allow(), IDENTITY).principals is None
    assert not only(allow(), IDENTITY).excludes_principals


def test_all_users_roles_and_sessions_that_a_document_names() -> None:
    statements = [allow([ALICE, ROOT]), deny([SESSION, "*"]), allow_all_but(BOB)]
    assert parse_policy(document(statements), KEY).principal_arns == {ALICE, SESSION, BOB}
    assert parse_policy(document([allow()]), IDENTITY).principal_arns == frozenset()


def test_what_a_statement_says() -> None:
    texts = ["kms:De*", "S3:Get?"]
    patterns = tuple(Pattern.parse(t, variables=False, ignore_case=True) for t in texts)
    anything = Pattern.parse("*", variables=False)
    for effect, make in ((Effect.ALLOW, allow), (Effect.DENY, deny)):
        parsed = only(make(ROOT, Action=texts))
        assert parsed.effect is effect
        assert parsed.actions == Patterns(patterns, inverted=False)
        assert parsed.resources == Patterns((anything,), inverted=False)
        assert parsed.conditions == ()
    other = only(allow(ROOT, Action=None, NotAction=texts, Resource=None, NotResource="*"))
    assert other.actions == Patterns(patterns, inverted=True)
    assert other.resources == Patterns((anything,), inverted=True)
    every = only(allow(ROOT, Action="*"))
    assert every.actions == Patterns(
        (Pattern.parse("*", variables=False, ignore_case=True),), inverted=False
    )
    assert only(allow(ROOT, Action=[], Resource=None)).actions is None
    assert only(allow(ROOT, Action=[], Resource=None)).resources is None


@pytest.mark.parametrize("version", [None, "2008-10-17", "2012-10-17"])
def test_variables_are_read_in_the_newer_version_only(version: str | None) -> None:
    """In resources and conditions, never in actions."""
    named = "arn:aws:kms:us-east-1:*:key/${aws:username}"
    statement = allow(ROOT, Resource=named, Condition=when("StringEquals", "a:b", "${a:c}"))
    members = {"Statement": [statement]} | ({} if version is None else {"Version": version})
    (parsed,) = parse_policy(json.dumps(members), KEY).statements
    is_new = version == "2012-10-17"
    expected = ArnPattern.parse(named, variables=is_new)
    assert expected is not None
    assert parsed.resources == Patterns((expected,), inverted=False)
    (condition,) = parsed.conditions
    facts = {"a:b": ("x",), "a:c": ("x",)}
    assert condition.holds(KnownFacts(facts), denies=False) is is_new
    plain = {"a:b": ("${a:c}",), "a:c": ("x",)}
    assert condition.holds(KnownFacts(plain), denies=False) is not is_new


def test_every_condition_is_read() -> None:
    both = when("StringEquals", "a:b", "1") | {"StringLike": {"a:c": "2", "a:d": "3"}}
    parsed = only(allow(ROOT, Condition=both))
    assert [condition.key for condition in parsed.conditions] == ["a:b", "a:c", "a:d"]


# The document | what is said of it
REFUSED: list[tuple[object, PolicyKind, str]] = [
    ("{", KEY, "This policy contains invalid Json"),
    (r'{"Statement": [], "\ud800": 1}', KEY, "This policy contains invalid Json"),
    (r'{"Statement": [], "Id": "\uDFFF"}', KEY, "This policy contains invalid Json"),
    ('{"Statement": [], "Id": "\udc80"}', KEY, "This policy contains invalid Json"),
    (r'{"Statement": [], "Id": "\ud83d\ude00"}', KEY, "the policy has no statement"),
    ('{"Statement": {}, "Statement": {}}', KEY, "This policy contains invalid Json"),
    ([], KEY, "the policy is not a JSON object"),
    ({"Statements": [], "Also": 1}, KEY, "the policy has the unknown member Also"),
    ({"Version": "2012-10-18"}, KEY, "Version must be 2012-10-17 or 2008-10-17"),
    ({"Id": 7, "Statement": [allow(ROOT)]}, KEY, "Id must be a text"),
    ({}, KEY, "the policy has no statement"),
    ({"Statement": []}, KEY, "the policy has no statement"),
    ({"Statement": "x"}, KEY, "the policy has no statement"),
    ({"Statement": [1]}, KEY, "a statement is not a JSON object"),
    (
        {"Statement": [allow(ROOT, Zone=1, Also=1)]},
        KEY,
        "a statement has the unknown member Also",
    ),
    (
        {"Statement": [allow(ROOT, NotPrincipal="*")]},
        KEY,
        "a statement has both Principal and NotPrincipal",
    ),
    (
        {"Statement": [allow(ROOT, NotAction="*")]},
        KEY,
        "a statement has both Action and NotAction",
    ),
    (
        {"Statement": [allow(ROOT, NotResource="*")]},
        KEY,
        "a statement has both Resource and NotResource",
    ),
    (
        {"Statement": [allow(ROOT, Effect="Refuse")]},
        KEY,
        "the Effect of a statement must be Allow or Deny",
    ),
    ({"Statement": [allow(ROOT, Sid=7)]}, KEY, "Sid must be a text"),
    (
        {"Statement": [allow(ROOT, Action=[7])]},
        KEY,
        "Action must be a text or a list of texts",
    ),
    (
        {"Statement": [allow(ROOT, Resource=7)]},
        KEY,
        "Resource must be a text or a list of texts",
    ),
    (
        {"Statement": [allow(Principal={"AWS": 7})]},
        KEY,
        "Principal must be a text or a list of texts",
    ),
    (
        {"Statement": [allow(NotPrincipal={"AWS": 7})]},
        KEY,
        "NotPrincipal must be a text or a list of texts",
    ),
    (
        {"Statement": [allow(ROOT, Action="Decrypt")]},
        KEY,
        "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
    ),
    (
        {"Statement": [allow(ROOT, Condition={"StringEquals": "a"})]},
        KEY,
        "a Condition must be objects of operators, of condition keys",
    ),
    (
        {"Statement": [allow(ROOT, Condition=["StringEquals"])]},
        KEY,
        "a Condition must be objects of operators, of condition keys",
    ),
    (
        {"Statement": [allow(Sid="one"), deny(Sid="one")]},
        IDENTITY,
        "Statement IDs (SID) in a single policy must be unique.",
    ),
    ({"Statement": [allow(Action=None)]}, IDENTITY, "Policy statement must contain actions."),
    ({"Statement": [allow(Resource=None)]}, IDENTITY, "Policy statement must contain resources."),
]


@pytest.mark.parametrize(("value", "kind", "message"), REFUSED)
def test_what_is_said_of_a_document_that_is_refused(
    value: object, kind: PolicyKind, message: str
) -> None:
    with pytest.raises(MalformedPolicyError) as raised:
        parse(value, kind)
    assert str(raised.value) == message


def test_ids_of_statements_may_repeat_in_key_policies_and_differ_in_others() -> None:
    parse_policy(document([allow(ROOT, Sid="one"), deny(ROOT, Sid="one")]), KEY)
    parse_policy(document([allow(Sid="one"), deny(Sid="two"), deny()]), IDENTITY)
    with pytest.raises(MalformedPolicyError, match="a statement is not a JSON object"):
        parse_policy('{"Statement": [1, {"Sid": "one"}]}', IDENTITY)


def test_actions_and_resources_fit_or_do_not() -> None:
    given = only(allow(ROOT, Action=["kms:a*", "kms:B"], Resource=KEY_ARN))
    facts = KnownFacts({})
    assert given.actions is not None
    assert given.resources is not None
    assert [given.actions.match(text, facts) for text in ("kms:ab", "kms:b", "kms:c")] == [
        True,
        True,
        False,
    ]
    assert given.resources.match(KEY_ARN, facts)
    assert not given.resources.match(KEY_ARN.upper(), facts)
    named = only(allow(ROOT, Resource="arn:aws:kms:*:*:key/${aws:username}")).resources
    assert named is not None
    of_alice = KnownFacts({"aws:username": ("alice",)})
    assert named.match("arn:aws:kms:us-east-1:0:key/alice", of_alice)
    assert not named.match("arn:aws:kms:us-east-1:0:key/bob", of_alice)


def test_a_document_is_parsed_once() -> None:
    text = document([allow(ROOT)])
    assert parse_policy(text, KEY) is parse_policy(str(text), KEY)


@pytest.mark.parametrize("characters", [SHORT_CHARACTERS, SHORT_CHARACTERS + 1])
def test_a_long_document_is_forgotten_when_others_are_read(characters: int) -> None:
    """Of a few, so that who proposes many does not fill the memory."""
    texts = [document([allow(ROOT, Sid=f"n{n}")]).ljust(characters) for n in range(10)]
    first, second = (parse_policy(text, KEY) for text in texts[:2])
    for text in texts:
        parse_policy(text, KEY)
        assert parse_policy(texts[0], KEY) is first  # asked for again and again, it stays
    assert (parse_policy(texts[1], KEY) is second) == (characters == SHORT_CHARACTERS)
