"""What policies let whom do: a table to be read aloud, and what holds for all of them."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kms.policies import (
    ALIAS,
    ALICE,
    AWAY,
    AWAY_ROOT,
    BOB,
    CAROL,
    HOME,
    KEY,
    OTHER_KEY,
    ROOT,
    Statement,
    allow,
    allow_all_but,
    ask,
    decide,
    decide_without_key,
    deny,
    deny_all_but,
    when,
)
from volcrypt.kms.policy import (
    ALLOWED,
    Decision,
    decide_on_key,
    default_policy,
    refuse_unknown_principal,
    refuse_unseen,
    service_managed_policy,
)
from volcrypt.kms.policy_document import PolicyKind, forget_policies, parse_policy

EBS = "ec2.us-east-1.amazonaws.com"
YES, NO = True, False
NOTHING: list[Statement] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing is remembered of an earlier test."""
    forget_policies()


# Who asks for what | what the key policy says | what the identity policy says | the answer
WHO_MAY = {
    "nothing said: not the owner": (ROOT, "Decrypt", [allow(BOB)], NOTHING, NO),
    "nothing said: no user": (ALICE, "Decrypt", [allow(BOB)], [allow()], NO),
    "the account: its root": (ROOT, "Decrypt", [allow(ROOT)], NOTHING, YES),
    "the account by number: its root": (ROOT, "Decrypt", [allow(HOME)], NOTHING, YES),
    "the account alone: no user": (ALICE, "Decrypt", [allow(ROOT)], NOTHING, NO),
    "the account, identity policy: user": (ALICE, "Decrypt", [allow(ROOT)], [allow()], YES),
    "by number, identity policy: user": (ALICE, "Decrypt", [allow(HOME)], [allow()], YES),
    "identity policy for something else": (
        *(ALICE, "Decrypt", [allow(ROOT)]),
        *([allow(Action="kms:Encrypt")], NO),
    ),
    "account has something else": (
        *(ALICE, "Decrypt", [allow(ROOT, Action="kms:Encrypt")]),
        *([allow()], NO),
    ),
    "the user by name": (ALICE, "Decrypt", [allow(ALICE)], NOTHING, YES),
    "the user among others": (ALICE, "Decrypt", [allow([BOB, ALICE])], NOTHING, YES),
    "another user": (ALICE, "Decrypt", [allow(BOB)], NOTHING, NO),
    "everybody: a user": (ALICE, "Decrypt", [allow("*")], NOTHING, YES),
    "everybody, without AWS": (ALICE, "Decrypt", [allow(Principal="*")], NOTHING, YES),
    "a service": (ALICE, "Decrypt", [allow({"Service": EBS})], [allow()], NO),
    "a federation": (ALICE, "Decrypt", [allow({"Federated": "idp.example"})], [allow()], NO),
    "all but another": (ALICE, "Decrypt", [allow_all_but(BOB)], NOTHING, YES),
    "all but me": (ALICE, "Decrypt", [allow_all_but(BOB, ALICE)], NOTHING, NO),
    "all but my account": (ALICE, "Decrypt", [allow_all_but(ROOT)], NOTHING, NO),
    "all but my account: its root": (ROOT, "Decrypt", [allow_all_but(ROOT)], NOTHING, NO),
    # Across accounts: key policy and identity policy.
    "away, user named alone": (CAROL, "Decrypt", [allow(CAROL)], NOTHING, NO),
    "away, user named, identity": (CAROL, "Decrypt", [allow(CAROL)], [allow()], YES),
    "away, account named alone": (CAROL, "Decrypt", [allow(AWAY_ROOT)], NOTHING, NO),
    "away, account, identity": (CAROL, "Decrypt", [allow(AWAY)], [allow()], YES),
    "away, everybody alone": (CAROL, "Decrypt", [allow("*")], NOTHING, NO),
    "away, everybody, identity": (CAROL, "Decrypt", [allow("*")], [allow()], YES),
    "away, identity alone": (CAROL, "Decrypt", [allow(ROOT)], [allow()], NO),
    "away, root named": (AWAY_ROOT, "Decrypt", [allow(AWAY_ROOT)], NOTHING, YES),
    "away, root not named": (AWAY_ROOT, "Decrypt", [allow(ROOT)], NOTHING, NO),
    # A Deny wins, wherever it stands.
    "denied by the key policy": (ALICE, "Decrypt", [allow(ALICE), deny(ALICE)], NOTHING, NO),
    "denied to all": (ROOT, "Decrypt", [deny("*"), allow(ROOT)], NOTHING, NO),
    "denied by identity": (ALICE, "Decrypt", [allow(ALICE)], [deny()], NO),
    "denied by identity, allowed too": (ALICE, "Decrypt", [allow(ROOT)], [allow(), deny()], NO),
    "denied to my account: user": (ALICE, "Decrypt", [allow(ALICE), deny(ROOT)], NOTHING, NO),
    "denied to my account: root": (ROOT, "Decrypt", [allow(ROOT), deny(HOME)], NOTHING, NO),
    "denied to another account": (ALICE, "Decrypt", [allow(ALICE), deny(AWAY)], NOTHING, YES),
    "denied to another user": (ALICE, "Decrypt", [allow(ALICE), deny(BOB)], NOTHING, YES),
    "denied, another action": (
        *(ALICE, "Decrypt", [allow(ALICE), deny(ALICE, Action="kms:Encrypt")]),
        *(NOTHING, YES),
    ),
    "denied to all but me": (
        *(ALICE, "Decrypt", [allow(ALICE), deny_all_but(ALICE, ROOT)]),
        *(NOTHING, YES),
    ),
    "denied to all but others": (
        *(ALICE, "Decrypt", [allow(ALICE), deny_all_but(BOB, ROOT)]),
        *(NOTHING, NO),
    ),
    "denied to all but root: root": (
        ROOT,
        "Decrypt",
        [allow(ROOT), deny_all_but(ROOT)],
        NOTHING,
        YES,
    ),
    # A condition on what the account was given counts for its users too.
    "account, on a condition that fails": (
        *(ALICE, "Decrypt", [allow(ROOT, Condition=when("StringEquals", "a:b", "c"))]),
        *([allow()], NO),
    ),
    "denied on a condition that fails": (
        *(ALICE, "Decrypt"),
        *([allow(ALICE), deny(ALICE, Condition=when("StringEquals", "a:b", "c"))], NOTHING, YES),
    ),
}


@pytest.mark.parametrize("case", WHO_MAY)
def test_who_may(case: str) -> None:
    who, action, key_policy, identity, answer = WHO_MAY[case]
    assert decide(who, action, key_policy=key_policy, identity=identity).allowed is answer


# Action asked for | members of the statement | whether the statement fits
WHAT_FITS: list[tuple[str, dict[str, Any], bool]] = [
    ("Decrypt", {"Action": "*"}, YES),
    ("Decrypt", {"Action": "kms:Decrypt"}, YES),
    ("Decrypt", {"Action": "KMS:DECRYPT"}, YES),
    ("Decrypt", {"Action": ["kms:Encrypt", "kms:De*"]}, YES),
    ("Decrypt", {"Action": "kms:D?crypt"}, YES),
    ("Decrypt", {"Action": "kms:*crypt"}, YES),
    ("Decrypt", {"Action": "kms:*x"}, NO),
    ("Decrypt", {"Action": "kms:Dec"}, NO),
    ("Decrypt", {"Action": "kms:?Decrypt"}, NO),
    ("Decrypt", {"Action": "s3:*"}, NO),
    ("Decrypt", {"Action": []}, NO),
    ("Decrypt", {"Action": None}, NO),
    ("Decrypt", {"Action": None, "NotAction": "kms:Encrypt"}, YES),
    ("Decrypt", {"Action": None, "NotAction": "kms:De*"}, NO),
    ("ReEncryptFrom", {"Action": "kms:ReEncrypt*"}, YES),
    ("GenerateDataKey", {"Action": "kms:GenerateDataKeyWithoutPlaintext"}, NO),
    ("Decrypt", {"Resource": KEY}, YES),
    ("Decrypt", {"Resource": [OTHER_KEY, KEY]}, YES),
    ("Decrypt", {"Resource": OTHER_KEY}, NO),
    ("Decrypt", {"Resource": f"arn:aws:kms:us-east-1:{HOME}:key/*"}, YES),
    ("Decrypt", {"Resource": "arn:aws:kms:*:*:key/1234abcd-????-*"}, YES),
    ("Decrypt", {"Resource": "arn:aws:kms:*"}, YES),
    ("Decrypt", {"Resource": f"arn:aws:kms:eu-*:{HOME}:key/*"}, NO),
    ("Decrypt", {"Resource": f"arn:aws:kms:*:{AWAY}:key/*"}, NO),
    ("Decrypt", {"Resource": "arn:aws:kms:*:key/*"}, NO),
    ("Decrypt", {"Resource": KEY.upper().replace("ARN:AWS:KMS", "arn:aws:kms")}, NO),
    ("Decrypt", {"Resource": ALIAS}, NO),
    ("Decrypt", {"Resource": []}, NO),
    ("Decrypt", {"Resource": None}, NO),
    ("Decrypt", {"Resource": None, "NotResource": OTHER_KEY}, YES),
    ("Decrypt", {"Resource": None, "NotResource": "*"}, NO),
]


@pytest.mark.parametrize(("action", "members", "fits"), WHAT_FITS)
def test_what_fits(action: str, members: dict[str, Any], fits: bool) -> None:
    assert decide(ALICE, action, key_policy=[allow(ALICE, **members)]).allowed is fits
    denying = [allow(ALICE), deny(ALICE, **members)]
    assert decide(ALICE, action, key_policy=denying).allowed is not fits


# Who asks for what on which resource | the identity policy | the answer
WITHOUT_A_KEY: list[tuple[str, str, str, list[Statement], bool]] = [
    (ROOT, "CreateKey", "*", NOTHING, YES),
    (ALICE, "CreateKey", "*", NOTHING, NO),
    (ALICE, "CreateKey", "*", [allow(Action="kms:CreateKey")], YES),
    (ALICE, "CreateKey", "*", [allow(Resource=f"arn:aws:kms:*:{HOME}:key/*")], NO),
    (ALICE, "CreateKey", "*", [allow(), deny(Action="kms:Create*")], NO),
    (ALICE, "CreateAlias", ALIAS, [allow(Resource="arn:aws:kms:*:*:alias/fin*")], YES),
    (ALICE, "CreateAlias", ALIAS, [allow(Resource="arn:aws:kms:*:*:alias/hr*")], NO),
    (AWAY_ROOT, "CreateKey", "*", NOTHING, NO),
    (CAROL, "CreateKey", "*", [allow()], NO),
]


@pytest.mark.parametrize(("who", "action", "resource", "identity", "answer"), WITHOUT_A_KEY)
def test_what_no_key_policy_is_asked_for(
    who: str, action: str, resource: str, identity: list[Statement], answer: bool
) -> None:
    decision = decide_without_key(who, action, identity=identity, resource=resource)
    assert decision.allowed is answer


# ---------------------------------------------------------------- why not

NO_RESOURCE = "because no resource-based policy allows the kms:Decrypt action"
NO_IDENTITY = "because no identity-based policy allows the kms:Decrypt action"
UNSEEN = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)


@pytest.mark.parametrize(
    ("who", "key_policy", "identity", "reason"),
    [
        (ALICE, [allow(BOB)], [allow()], NO_RESOURCE),
        (ROOT, [allow(BOB)], NOTHING, NO_RESOURCE),
        (ALICE, [allow(ROOT)], NOTHING, NO_IDENTITY),
        (CAROL, [allow(AWAY)], NOTHING, NO_IDENTITY),
        (CAROL, [allow(ROOT)], [allow()], UNSEEN),
        (CAROL, [allow(CAROL), deny(CAROL)], [allow()], UNSEEN),
        (
            ALICE,
            [allow(ALICE), deny("*")],
            NOTHING,
            "with an explicit deny in a resource-based policy",
        ),
        (ALICE, [allow(ALICE)], [deny()], "with an explicit deny in an identity-based policy"),
    ],
)
def test_reasons(
    who: str, key_policy: list[Statement], identity: list[Statement], reason: str
) -> None:
    decision = decide(who, "Decrypt", key_policy=key_policy, identity=identity)
    assert (decision.allowed, decision.reason) == (False, reason)


def test_a_grant_helps_where_nothing_was_said_and_not_against_a_deny() -> None:
    assert not decide(ALICE, "Decrypt", key_policy=[allow(ROOT)]).is_final
    assert not decide(CAROL, "Decrypt", key_policy=[allow(ROOT)]).is_final
    assert decide(ALICE, "Decrypt", key_policy=[deny("*")]).is_final
    assert decide(CAROL, "Decrypt", key_policy=[deny("*")]).is_final
    assert decide(ALICE, "Decrypt", key_policy=[allow(ROOT)], identity=[deny()]).is_final


def test_what_an_identity_policy_could_still_give() -> None:
    """`is_left_to_identity`: for who may tell the user what to ask for."""
    for who, key_policy, identity, is_left in (
        (ALICE, [allow(ROOT)], NOTHING, YES),
        (CAROL, [allow(CAROL)], NOTHING, YES),
        (ALICE, [allow(BOB)], [allow()], NO),
        (ALICE, [allow(ROOT), deny("*")], NOTHING, NO),
        (ALICE, [allow(ROOT)], [deny()], NO),
        (CAROL, [allow(ROOT)], NOTHING, NO),
    ):
        decision = decide(who, "Decrypt", key_policy=key_policy, identity=identity)
        assert decision.is_left_to_identity is is_left
    left = decide_without_key(ALICE, "CreateKey", identity=[])
    assert left.reason == "because no identity-based policy allows the kms:CreateKey action"
    assert left.is_left_to_identity
    denied = decide_without_key(ALICE, "CreateKey", identity=[deny()])
    assert denied.reason == "with an explicit deny in an identity-based policy"
    assert not denied.is_left_to_identity


def test_an_allowed_request_has_no_reason() -> None:
    assert decide(ALICE, "Decrypt", key_policy=[allow(ALICE)]) == Decision(allowed=True)
    assert Decision(allowed=True, reason="", is_final=True, is_left_to_identity=False) == ALLOWED


def test_a_principal_that_does_not_exist() -> None:
    """Of this account it hears what any of its principals does, of another one nothing."""
    here = refuse_unknown_principal(ask(ALICE, "Decrypt"))
    assert here == Decision(
        allowed=False, reason=NO_IDENTITY, is_final=False, is_left_to_identity=True
    )
    unseen = Decision(allowed=False, reason=UNSEEN, is_final=True)
    assert refuse_unknown_principal(ask(CAROL, "Decrypt")) == refuse_unseen() == unseen


# ---------------------------------------------------------------- the documents of volcrypt


def test_the_default_policy_leaves_it_to_the_account() -> None:
    (statement,) = parse_policy(default_policy(HOME), PolicyKind.KEY).statements
    assert statement.principals is not None
    assert statement.principals.accounts == {HOME}
    assert not statement.principals.anyone
    assert '"Sid": "Enable IAM User Permissions"' in default_policy(HOME)
    assert '"Id": "key-default-1"' in default_policy(HOME)


def test_the_documents_are_those_of_aws() -> None:
    """To the letter, but for the service."""
    assert json.loads(default_policy(HOME)) == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    assert json.loads(service_managed_policy(HOME, "us-east-1")) == {
        "Version": "2012-10-17",
        "Id": "auto-ebs-2",
        "Statement": [
            {
                "Sid": "Allow access through EBS for all principals in the account that are "
                "authorized to use EBS",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": [
                    "kms:Encrypt",
                    "kms:Decrypt",
                    "kms:ReEncrypt*",
                    "kms:GenerateDataKey*",
                    "kms:CreateGrant",
                    "kms:DescribeKey",
                ],
                "Resource": "*",
                "Condition": {"StringEquals": {"kms:CallerAccount": HOME, "kms:ViaService": EBS}},
            },
            {
                "Sid": "Allow direct access to key metadata to the account",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
                "Resource": "*",
            },
        ],
    }


def test_policies_are_indented_as_those_of_aws() -> None:
    assert default_policy(HOME).startswith('{\n  "Version": "2012-10-17",\n  "Id"')


def managed(who: str, action: str, *, via: str | None = EBS, caller: str = HOME) -> bool:
    facts = {"kms:CallerAccount": (caller,)} | ({} if via is None else {"kms:ViaService": (via,)})
    request = ask(who, action, facts)
    policy = service_managed_policy(HOME, "us-east-1")
    return decide_on_key(request, key_policy=policy, identity_policies=[]).allowed


@pytest.mark.parametrize("action", ["Encrypt", "Decrypt", "ReEncryptFrom", "GenerateDataKey"])
def test_the_managed_key_is_used_through_the_volume_service_only(action: str) -> None:
    assert managed(ROOT, action)
    assert managed(ALICE, action)
    assert not managed(ROOT, action, via=None)
    assert not managed(ROOT, action, via="s3.us-east-1.amazonaws.com")
    assert not managed(AWAY_ROOT, action, caller=AWAY)


def test_the_managed_key_can_be_looked_at_and_not_changed() -> None:
    assert managed(ROOT, "DescribeKey", via=None)
    assert managed(ROOT, "GetKeyPolicy", via=None)
    for action in ("DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion", "CreateAlias"):
        assert not managed(ROOT, action, via=None)
        assert not managed(ROOT, action)


# ---------------------------------------------------------------- what holds for all policies

principals = st.sampled_from([ROOT, ALICE, BOB, CAROL, AWAY_ROOT, HOME, AWAY, "*"])
callers = st.sampled_from([ROOT, ALICE, BOB, CAROL, AWAY_ROOT])
actions = st.sampled_from(["Decrypt", "Encrypt", "CreateGrant"])
patterns = st.sampled_from(["*", "kms:*", "kms:De*", "kms:Decrypt", "kms:?ncrypt", "s3:*"])
conditions = st.sampled_from(
    [
        {},
        when("StringEquals", "kms:ViaService", EBS),
        when("StringNotEquals", "kms:ViaService", EBS),
        when("Null", "kms:ViaService", "true"),
        when("ForAllValues:StringEquals", "kms:EncryptionContextKeys", "a"),
    ]
)
facts = st.fixed_dictionaries(
    {},
    optional={
        "kms:ViaService": st.sampled_from([(EBS,), ("x",)]),
        "kms:EncryptionContextKeys": st.sampled_from([("a",), ("a", "b")]),
    },
)


@st.composite
def key_statements(draw: st.DrawFn, effects: tuple[str, ...] = ("Allow", "Deny")) -> Statement:
    make = allow if draw(st.sampled_from(effects)) == "Allow" else deny
    to = draw(st.lists(principals, min_size=1, max_size=3))
    return make(to, Action=draw(patterns), Condition=draw(conditions))


@st.composite
def identity_statements(draw: st.DrawFn) -> Statement:
    make = allow if draw(st.booleans()) else deny
    return make(Action=draw(patterns), Condition=draw(conditions))


policies = st.lists(key_statements(), min_size=1, max_size=5)
identities = st.lists(identity_statements(), max_size=3)
Facts = dict[str, tuple[str, ...]]


@settings(deadline=None)
@given(callers, actions, policies, identities, facts)
def test_a_deny_always_wins(
    who: str, action: str, policy: list[Statement], identity: list[Statement], known: Facts
) -> None:
    for denied in (
        decide(who, action, key_policy=[*policy, deny("*")], identity=identity, facts=known),
        decide(who, action, key_policy=[*policy, deny(who)], identity=identity, facts=known),
        decide(who, action, key_policy=policy, identity=[*identity, deny()], facts=known),
    ):
        assert not denied.allowed
        assert denied.is_final


@settings(deadline=None)
@given(callers, actions, policies, identities, facts, st.randoms(use_true_random=False))
def test_the_order_of_statements_does_not_matter(
    who: str,
    action: str,
    policy: list[Statement],
    identity: list[Statement],
    known: Facts,
    rng: random.Random,
) -> None:
    decision = decide(who, action, key_policy=policy, identity=identity, facts=known)
    shuffled = rng.sample(policy, len(policy)), rng.sample(identity, len(identity))
    again = decide(who, action, key_policy=shuffled[0], identity=shuffled[1], facts=known)
    assert decision == again


@settings(deadline=None)
@given(callers, actions, policies, identities, facts, st.booleans())
def test_a_statement_about_something_else_changes_nothing(
    who: str,
    action: str,
    policy: list[Statement],
    identity: list[Statement],
    known: Facts,
    allows: bool,
) -> None:
    make = allow if allows else deny
    elsewhere = [
        make("arn:aws:iam::222222222222:user/dave"),
        make("222222222222"),
        make("*", Action="kms:TagResource"),
        make("*", Resource=OTHER_KEY),
        make("*", Condition=when("StringEquals", "kms:ViaService", "elsewhere")),
    ]
    decision = decide(who, action, key_policy=policy, identity=identity, facts=known)
    for statement in elsewhere:
        for wider in ([statement, *policy], [*policy, statement]):
            assert decide(who, action, key_policy=wider, identity=identity, facts=known) == decision


@settings(deadline=None)
@given(callers, actions, policies, facts)
def test_one_more_allow_never_takes_away_and_one_more_deny_never_gives(
    who: str, action: str, policy: list[Statement], known: Facts
) -> None:
    before = decide(who, action, key_policy=policy, facts=known).allowed
    assert decide(who, action, key_policy=[*policy, allow("*")], facts=known).allowed >= before
    denying = [*policy, deny("*", Action="kms:De*")]
    assert decide(who, action, key_policy=denying, facts=known).allowed <= before


@settings(deadline=None)
@given(callers, actions, st.lists(key_statements(("Deny",)), min_size=1), facts)
def test_what_nothing_allows_is_refused(
    who: str, action: str, denials: list[Statement], known: Facts
) -> None:
    assert not decide(who, action, key_policy=denials, identity=[], facts=known).allowed
