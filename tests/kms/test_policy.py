"""Key policies: what they let whom do."""

from typing import Any

import msgspec
import pytest

from volcrypt.errors import MalformedPolicyError
from volcrypt.kms.policy import (
    AccessRequest,
    default_policy,
    evaluate,
    evaluate_account,
    service_managed_policy,
)

ACCOUNT = "000000000000"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/k"
EBS = "ec2.us-east-1.amazonaws.com"
DEFAULT = default_policy(ACCOUNT)
MANAGED = service_managed_policy(ACCOUNT, "us-east-1")


def ask(
    action: str = "kms:Decrypt",
    *,
    principal: str = ROOT,
    account: str = ACCOUNT,
    via: str | None = None,
) -> AccessRequest:
    return AccessRequest(
        principal=principal,
        principal_account=account,
        action=action,
        resource=KEY,
        via_service=via,
        encryption_context={},
    )


def allows(policy: str, request: AccessRequest) -> bool:
    return evaluate(policy, request).allowed


def document(*statements: dict[str, Any]) -> str:
    return msgspec.json.encode({"Statement": statements}).decode()


def statement(**members: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"AWS": ROOT},
        "Action": "kms:*",
        "Resource": "*",
    } | members


def test_the_default_policy_is_that_of_aws() -> None:
    assert msgspec.json.decode(DEFAULT) == {
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


def test_by_default_the_root_may_do_everything_and_nobody_else_anything() -> None:
    assert allows(DEFAULT, ask())
    assert allows(DEFAULT, ask("kms:PutKeyPolicy"))
    assert not allows(DEFAULT, ask(principal=ALICE))
    stranger = ask(principal="arn:aws:iam::111111111111:root", account="111111111111")
    assert not allows(DEFAULT, stranger)


@pytest.mark.parametrize("action", ["Encrypt", "Decrypt", "ReEncryptFrom", "GenerateDataKey"])
def test_the_managed_key_is_used_through_the_volume_service_only(action: str) -> None:
    assert allows(MANAGED, ask(f"kms:{action}", via=EBS))
    assert allows(MANAGED, ask(f"kms:{action}", via=EBS, principal=ALICE))
    assert not allows(MANAGED, ask(f"kms:{action}"))
    assert not allows(MANAGED, ask(f"kms:{action}", via="s3.us-east-1.amazonaws.com"))
    other = ask(f"kms:{action}", via=EBS, principal="arn:aws:iam::1:root", account="1")
    assert not allows(MANAGED, other)


def test_the_managed_key_can_be_looked_at_and_not_changed() -> None:
    assert allows(MANAGED, ask("kms:DescribeKey"))
    assert allows(MANAGED, ask("kms:GetKeyPolicy"))
    for action in ("DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion", "CreateAlias"):
        assert not allows(MANAGED, ask(f"kms:{action}"))
        assert not allows(MANAGED, ask(f"kms:{action}", via=EBS))


def test_a_deny_wins() -> None:
    policy = document(statement(), statement(Effect="Deny", Action="kms:Decrypt"))
    assert not allows(policy, ask())
    assert "explicitly" in evaluate(policy, ask()).reason
    assert allows(policy, ask("kms:Encrypt"))


@pytest.mark.parametrize(
    "members",
    [
        {"Action": "kms:Encrypt"},
        {"Action": []},
        {"Action": 7},
        {"Principal": {"AWS": ALICE}},
        {"Principal": {"Service": "x"}},
        {"Principal": {}},
        {"Resource": "arn:aws:kms:us-east-1:000000000000:key/other"},
        {"NotAction": "kms:Encrypt"},
        {"Condition": {"Bool": {"a": "b"}}},
        {"Condition": {"StringEquals": {"kms:GranteePrincipal": "x"}}},
        {"Condition": {"StringEquals": 1}},
        {"Condition": []},
        {"Effect": "allow"},
    ],
)
def test_an_allow_that_does_not_fit_or_is_not_understood_allows_nothing(
    members: dict[str, Any],
) -> None:
    assert not allows(document(statement(**members)), ask())


@pytest.mark.parametrize("members", [{"NotResource": "x"}, {"Condition": {"Bool": {"a": "b"}}}])
def test_a_deny_that_is_not_understood_denies(members: dict[str, Any]) -> None:
    assert not allows(document(statement(), statement(Effect="Deny", **members)), ask())


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [("kms:dec*", True), ("kms:D?crypt", True), ("kms:Dec", False), ("kms:[D]ecrypt", False)],
)
def test_wildcards(pattern: str, fits: bool) -> None:
    assert allows(document(statement(Action=["kms:X", pattern])), ask()) is fits


@pytest.mark.parametrize("principal", [ACCOUNT, "*", {"AWS": [ALICE, ROOT]}])
def test_ways_to_name_the_root(principal: object) -> None:
    named = principal if isinstance(principal, dict) else {"AWS": principal}
    assert allows(document(statement(Principal=named)), ask())


@pytest.mark.parametrize("policy", ["", "[]", "{", '{"Statement": 1}', '{"Statement": [1]}'])
def test_what_is_no_policy_is_malformed(policy: str) -> None:
    with pytest.raises(MalformedPolicyError):
        evaluate(policy, ask())


def test_one_statement_may_stand_without_a_list() -> None:
    assert allows(msgspec.json.encode({"Statement": statement()}).decode(), ask())


def test_account_requests_are_the_roots() -> None:
    assert evaluate_account(ask("kms:CreateKey"), account=ACCOUNT).allowed
    assert not evaluate_account(ask("kms:CreateKey", principal=ALICE), account=ACCOUNT).allowed
    assert not evaluate_account(ask("kms:CreateKey"), account="1").allowed
