"""Operations on key policies, and what policies do to requests."""

from dataclasses import replace

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, STRANGER, MemoryKms
from tests.kms.people import add_user, remove_user
from tests.kms.policies import AWAY, Statement, allow, deny, document, when
from volcrypt.errors import (
    AccessDeniedError,
    InvalidArnError,
    KeyNotFoundError,
    KmsError,
    KmsValidationError,
    LimitExceededError,
    MalformedPolicyError,
)
from volcrypt.kms.messages.aliases import CreateAliasRequest, ListAliasesRequest
from volcrypt.kms.messages.data import DecryptRequest, EncryptRequest, GenerateRandomRequest
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    DescribeKeyRequest,
    GetKeyPolicyRequest,
    ListKeysRequest,
)
from volcrypt.kms.messages.policies import ListKeyPoliciesRequest, PutKeyPolicyRequest
from volcrypt.kms.model import Caller, root_arn

TO_ACCOUNT = allow(root_arn(ACCOUNT))
INVALID = "Policy contains a statement with one or more invalid principals."
LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."


def put(
    kms: MemoryKms,
    key_id: str,
    policy: str | list[Statement],
    *,
    caller: Caller = ROOT,
    bypass: bool = False,
    name: str = "default",
) -> None:
    text = policy if isinstance(policy, str) else document(policy)
    request = PutKeyPolicyRequest(
        key_id=key_id,
        policy=text,
        policy_name=name,
        bypass_policy_lockout_safety_check=bypass,
    )
    kms.service.perform(caller, request)


def may(kms: MemoryKms, caller: Caller, key_id: str, **context: str) -> bool:
    """Whether the caller may encrypt."""
    request = EncryptRequest(key_id=key_id, plaintext=bytearray(1), encryption_context=context)
    try:
        kms.service.perform(caller, request)
    except AccessDeniedError:
        return False
    return True


def test_a_policy_is_put_and_read_as_it_was_written(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    text = "\n  " + document([TO_ACCOUNT]).replace("{", "{\t", 1)
    put(kms, key_id, text)
    assert kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=key_id)).policy == text
    listed = kms.service.perform(ROOT, ListKeyPoliciesRequest(key_id=key_id))
    assert (listed.policy_names, listed.truncated) == (["default"], False)
    (record,) = [r for r in kms.records() if r.event_name == "PutKeyPolicy"]
    assert record.request_parameters is not None
    assert record.request_parameters["policy"] == text
    assert not record.read_only


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        ("my policy", MalformedPolicyError, "This policy contains invalid Json"),
        (document([allow(f"arn:aws:iam::{ACCOUNT}:user/ghost")]), MalformedPolicyError, INVALID),
        (document([allow(f"arn:aws:iam::{ACCOUNT}:role/ghost")]), MalformedPolicyError, INVALID),
        (
            document([allow()]),
            MalformedPolicyError,
            "Policy contains a statement with no principal.",
        ),
        (
            document([allow(f"arn:aws:iam::{ACCOUNT}:group/g")]),
            InvalidArnError,
            "An ARN in the specified key policy is invalid.",
        ),
        (document([allow(root_arn(AWAY))]), MalformedPolicyError, LOCKED_OUT),
        (
            document([TO_ACCOUNT, deny("*", Action="kms:PutKeyPolicy")]),
            MalformedPolicyError,
            LOCKED_OUT,
        ),
        (
            document([allow(root_arn(ACCOUNT), Action="kms:Get*")]),
            MalformedPolicyError,
            LOCKED_OUT,
        ),
    ],
)
def test_policies_that_are_refused(
    kms: MemoryKms, policy: str, error: type[KmsError], message: str
) -> None:
    key_id = kms.new_key()
    before = kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=key_id)).policy
    with pytest.raises(error) as raised:
        put(kms, key_id, policy)
    assert str(raised.value) == message
    assert kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=key_id)).policy == before


def test_size_and_characters(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    text = document([TO_ACCOUNT])
    put(kms, key_id, text + " " * (32_768 - len(text)))
    with pytest.raises(LimitExceededError):
        put(kms, key_id, text + " " * (32_769 - len(text)))
    with pytest.raises(LimitExceededError):
        put(kms, key_id, text.replace("{", "{" + '"Id": "' + "é" * 16_384 + '",', 1))
    with pytest.raises(KmsValidationError, match="less than or equal to 131072"):
        put(kms, key_id, text + " " * 131_072)
    for character in ("\u0100", "\x0b", "\x7f\u20ac"):
        with pytest.raises(KmsValidationError) as raised:
            put(kms, key_id, text + character)
        assert str(raised.value).endswith(
            r"satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+"
        )


def test_the_lockout_check_can_be_bypassed(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    put(kms, key_id, [allow(root_arn(AWAY))], bypass=True)
    with pytest.raises(AccessDeniedError):
        put(kms, key_id, [TO_ACCOUNT])
    assert not may(kms, ROOT, key_id)


def test_the_lockout_check_is_about_the_caller(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    alice = add_user(kms, "alice", [allow()])
    bob = add_user(kms, "bob")
    put(kms, key_id, [TO_ACCOUNT], caller=alice)
    with pytest.raises(MalformedPolicyError, match="in the future"):
        put(kms, key_id, [allow(bob.arn)], caller=alice)
    put(kms, key_id, [allow(bob.arn), allow(alice.arn, Action="kms:PutKeyPolicy")], caller=alice)
    with pytest.raises(MalformedPolicyError, match="in the future"):
        put(kms, key_id, [TO_ACCOUNT], caller=bob)


def test_a_policy_can_forbid_to_bypass_the_check(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    bypass = when("Bool", "kms:BypassPolicyLockoutSafetyCheck", "true")
    put(kms, key_id, [TO_ACCOUNT, deny("*", Condition=bypass)])
    with pytest.raises(AccessDeniedError, match="with an explicit deny in a resource-based policy"):
        put(kms, key_id, [TO_ACCOUNT], bypass=True)
    put(kms, key_id, [TO_ACCOUNT])


def test_other_policy_names(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    with pytest.raises(KeyNotFoundError, match="No such policy exists"):
        put(kms, key_id, [TO_ACCOUNT], name="mine")
    with pytest.raises(KmsValidationError) as raised:
        put(kms, key_id, [TO_ACCOUNT], name="AWS_RAM")
    assert str(raised.value) == "The AWS_RAM policy can only be managed by the RAM service."


def test_a_service_managed_key_keeps_its_policy(kms: MemoryKms) -> None:
    described = kms.service.call(ROOT, "DescribeKey", {"KeyId": "alias/aws/ebs"})
    with pytest.raises(AccessDeniedError):
        put(kms, described["KeyMetadata"]["KeyId"], [TO_ACCOUNT])


def test_users(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    alice = add_user(kms, "alice")
    powerful = add_user(kms, "powerful", [allow(Action=["kms:Encrypt", "kms:CreateKey"])])
    assert not may(kms, alice, key_id)
    assert may(kms, powerful, key_id)
    kms.service.perform(powerful, CreateKeyRequest())
    with pytest.raises(AccessDeniedError):
        kms.service.perform(powerful, ListKeysRequest())
    put(kms, key_id, [TO_ACCOUNT, allow(alice.arn, Action="kms:Encrypt")])
    assert may(kms, alice, key_id)
    remove_user(kms, alice)
    assert not may(kms, alice, key_id)


def test_a_deleted_user_is_refused_even_what_everybody_may(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    alice = add_user(kms, "alice", [allow()])
    put(kms, key_id, [TO_ACCOUNT, allow("*")])
    assert may(kms, alice, key_id)
    remove_user(kms, alice)
    assert not may(kms, alice, key_id)
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, GenerateRandomRequest(number_of_bytes=1))


def test_principals_of_other_accounts(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    put(kms, key_id, [TO_ACCOUNT, allow(f"arn:aws:iam::{AWAY}:user/may-exist")])
    carol = add_user(kms, "carol", [allow()], account=AWAY)
    with pytest.raises(MalformedPolicyError, match="invalid principals"):
        put(kms, key_id, [TO_ACCOUNT, allow(f"arn:aws:iam::{AWAY}:user/nobody")])
    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{key_id}"
    assert not may(kms, carol, arn)
    put(kms, key_id, [TO_ACCOUNT, allow(AWAY)])
    assert may(kms, carol, arn)
    assert may(kms, STRANGER, arn)
    kms.service.perform(carol, DescribeKeyRequest(key_id=arn))
    with pytest.raises(AccessDeniedError, match="because the resource does not exist"):
        kms.service.perform(carol, GetKeyPolicyRequest(key_id=arn))


@pytest.mark.parametrize(
    ("condition", "context", "answer"),
    [
        (when("StringEquals", "kms:EncryptionContext:app", "billing"), {"app": "billing"}, True),
        (when("StringEquals", "kms:EncryptionContext:APP", "billing"), {"app": "billing"}, True),
        (when("StringEquals", "kms:EncryptionContext:app", "billing"), {"app": "other"}, False),
        (when("StringEquals", "kms:EncryptionContext:app", "billing"), {}, False),
        (
            when("ForAllValues:StringEquals", "kms:EncryptionContextKeys", "a", "b"),
            {"a": "1"},
            True,
        ),
        (when("ForAllValues:StringEquals", "kms:EncryptionContextKeys", "A"), {"a": "1"}, False),
        (when("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "b"), {"a": "1"}, False),
        (when("Null", "kms:EncryptionContextKeys", "true"), {}, True),
        (when("Null", "kms:EncryptionContext:a", "false"), {"b": "1"}, False),
        (when("StringEquals", "kms:CallerAccount", ACCOUNT), {}, True),
        (when("StringEquals", "kms:ViaService", "ec2.us-east-1.amazonaws.com"), {}, False),
        (when("StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT"), {}, True),
        (when("StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT"), {}, True),
        (when("StringEquals", "kms:KeyOrigin", "AWS_KMS"), {}, True),
        (when("StringEquals", "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT"), {}, True),
        (when("StringLike", "kms:RequestAlias", "alias/fin*"), {}, True),
        (when("StringLike", "kms:RequestAlias", "alias/hr*"), {}, False),
        (when("ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/finance"), {}, True),
        (when("ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/hr"), {}, False),
        (when("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/al*"), {}, True),
        (when("StringEquals", "aws:username", "alice"), {}, True),
        (when("StringEquals", "aws:PrincipalType", "User"), {}, True),
        (when("StringEquals", "aws:PrincipalAccount", ACCOUNT), {}, True),
        (when("StringEquals", "aws:ResourceAccount", ACCOUNT), {}, True),
        (when("StringEquals", "aws:RequestedRegion", "us-east-1"), {}, True),
        (when("IpAddress", "aws:SourceIp", "192.0.2.0/24"), {}, True),
        (when("IpAddress", "aws:SourceIp", "198.51.100.0/24"), {}, False),
        (when("DateGreaterThan", "aws:CurrentTime", "2027-01-15T07:00:00Z"), {}, True),
        (when("DateGreaterThan", "aws:CurrentTime", "2027-01-15T09:00:00Z"), {}, False),
        (when("NumericLessThan", "aws:EpochTime", 1_900_000_000), {}, True),
        (when("Bool", "aws:ViaAWSService", "false"), {}, True),
        (when("StringEquals", "aws:PrincipalOrgID", "o-1"), {}, False),
        (when("Bool", "aws:SecureTransport", "true"), {}, True),
    ],
)
def test_what_is_known_of_a_request(
    kms: MemoryKms,
    condition: dict[str, dict[str, list[str]]],
    context: dict[str, str],
    answer: bool,
) -> None:
    key_id = kms.new_key()
    kms.service.perform(ROOT, CreateAliasRequest(alias_name="alias/finance", target_key_id=key_id))
    alice = add_user(kms, "alice")
    put(kms, key_id, [TO_ACCOUNT, allow(alice.arn, Condition=condition)])
    caller = Caller(arn=alice.arn, account=ACCOUNT, source_address="192.0.2.7")
    assert may(kms, caller, "alias/finance", **context) is answer


def test_without_tls_what_demands_it_is_denied(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    alice = add_user(kms, "alice")
    without_tls = deny("*", Condition=when("Bool", "aws:SecureTransport", "false"))
    put(kms, key_id, [TO_ACCOUNT, allow(alice.arn), without_tls])
    assert may(kms, alice, key_id)
    assert not may(kms, replace(alice, is_secure=False), key_id)


def test_a_later_user_of_the_same_name_is_not_whom_a_policy_names(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    alice = add_user(kms, "alice")
    policy = [TO_ACCOUNT, allow(alice.arn)]
    put(kms, key_id, policy)
    made = kms.service.perform(ROOT, CreateKeyRequest(policy=document(policy))).key_metadata
    assert may(kms, alice, key_id)
    assert may(kms, alice, made.key_id)
    remove_user(kms, alice)
    add_user(kms, "alice", user_id="AIDANOTHER")
    assert not may(kms, alice, key_id)
    assert not may(kms, alice, made.key_id)
    put(kms, key_id, [TO_ACCOUNT, allow(alice.arn)])
    assert may(kms, alice, key_id)


def test_what_is_in_another_account_and_what_is_not_look_the_same(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    kms.service.perform(ROOT, CreateAliasRequest(alias_name="alias/oz", target_key_id=key_id))
    mallory = add_user(kms, "mallory", [allow(Action="kms:*")], account=AWAY)
    service = kms.service.scope(AWAY, REGION)
    prefix = f"arn:aws:kms:{REGION}:{ACCOUNT}:"
    none = "00000000-0000-0000-0000-000000000000"
    requests = {
        DescribeKeyRequest: (f"key/{key_id}", f"key/{none}", "alias/oz", "alias/no"),
        ListAliasesRequest: (f"key/{key_id}", f"key/{none}"),
    }
    for request_type, names in requests.items():
        seen = set()
        for name in names:
            with pytest.raises(AccessDeniedError) as raised:
                service.perform(mallory, request_type(key_id=prefix + name))
            seen.add(str(raised.value).replace(prefix + name, "X"))
        assert len(seen) == 1


def test_a_forbidden_key_and_none_look_the_same_to_decrypt(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    request = EncryptRequest(key_id=key_id, plaintext=bytearray(b"x"))
    blob = kms.service.perform(ROOT, request).ciphertext_blob
    put(kms, key_id, [TO_ACCOUNT, deny("*", Action="kms:Decrypt")])
    with pytest.raises(AccessDeniedError) as raised:
        kms.service.perform(ROOT, DecryptRequest(ciphertext_blob=blob))
    assert str(raised.value).startswith("The ciphertext refers to a customer master key that does")
