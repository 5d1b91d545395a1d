"""Condition keys: what policies can ask of a request is what the request says."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, NOW, ROOT, MemoryKms
from tests.kms.people import add_user
from tests.kms.policies import allow, document, when
from volcrypt.errors import AccessDeniedError, KmsError, MalformedPolicyError
from volcrypt.kms.facts import RequestFacts
from volcrypt.kms.messages.aliases import CreateAliasRequest
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import EncryptRequest, ReEncryptRequest
from volcrypt.kms.messages.deletion import ScheduleKeyDeletionRequest
from volcrypt.kms.messages.imports import GetParametersForImportRequest, ImportKeyMaterialRequest
from volcrypt.kms.messages.keys import CreateKeyRequest, DescribeKeyRequest
from volcrypt.kms.messages.policies import PutKeyPolicyRequest
from volcrypt.kms.messages.rotation import EnableKeyRotationRequest
from volcrypt.kms.messages.tags import Tag, TagResourceRequest, UntagResourceRequest
from volcrypt.kms.model import Caller, root_arn

IMPORT = ImportKeyMaterialRequest(
    key_id="",
    import_token=b"x",
    encrypted_key_material=b"x",
    valid_to=NOW + 100,
    expiration_model="KEY_MATERIAL_EXPIRES",
)
PARAMETERS = GetParametersForImportRequest(
    key_id="", wrapping_algorithm="RSAES_OAEP_SHA_256", wrapping_key_spec="RSA_3072"
)
TAG = TagResourceRequest(key_id="", tags=[Tag(tag_key="Team", tag_value="oz")])
UNTAG = UntagResourceRequest(key_id="", tag_keys=["Team"])
POLICY = PutKeyPolicyRequest(key_id="", policy=document([allow(root_arn(ACCOUNT))]))
DELETION = ScheduleKeyDeletionRequest(key_id="", pending_window_in_days=7)
ROTATION = EnableKeyRotationRequest(key_id="", rotation_period_in_days=100)
LOOK = DescribeKeyRequest(key_id="")


def is_denied(kms: MemoryKms, caller: Caller, request: Request[Any]) -> bool:
    """What else may be wrong with a request is no matter here."""
    try:
        kms.service.perform(caller, request)
    except AccessDeniedError:
        return True
    except KmsError:
        pass
    return False


@pytest.mark.parametrize(
    ("asked", "operator", "key", "value", "other"),
    [
        (DELETION, "NumericEquals", "kms:ScheduleKeyDeletionPendingWindowInDays", 7, 8),
        (ROTATION, "NumericEquals", "kms:RotationPeriodInDays", 100, 365),
        (POLICY, "StringEquals", "kms:PolicyName", "default", "another"),
        (POLICY, "Bool", "kms:BypassPolicyLockoutSafetyCheck", "false", "true"),
        (IMPORT, "NumericEquals", "kms:ValidTo", NOW + 100, NOW + 101),
        (IMPORT, "DateEquals", "kms:ValidTo", NOW + 100, NOW + 101),
        (IMPORT, "StringLike", "kms:ExpirationModel", "*_EXPIRES", "*_DOES_NOT_EXPIRE"),
        (PARAMETERS, "StringLike", "kms:WrappingAlgorithm", "*_SHA_256", "*_SHA_1"),
        (PARAMETERS, "StringEquals", "kms:WrappingKeySpec", "RSA_3072", "RSA_2048"),
        (TAG, "StringEquals", "aws:RequestTag/team", "oz", "us"),
        (TAG, "ForAnyValue:StringEquals", "aws:TagKeys", "Team", "team"),
        (UNTAG, "ForAnyValue:StringEquals", "aws:TagKeys", "Team", "team"),
        (LOOK, "StringEquals", "aws:ResourceTag/level", "7", "8"),
        (LOOK, "Bool", "kms:MultiRegion", "false", "true"),
        (LOOK, "StringEquals", "aws:UserAgent", "agent/1", "agent/2"),
        (LOOK, "StringEquals", "aws:userid", "AIDAALICE", "AIDABOB"),
        (LOOK, "Null", "aws:RequestTag/team", "true", "false"),
    ],
)
def test_a_policy_can_ask_what_a_request_says(
    kms: MemoryKms, asked: Request[Any], operator: str, key: str, value: object, other: object
) -> None:
    alice = replace(add_user(kms, "alice", user_id="AIDAALICE"), user_agent="agent/1")
    tagged = [Tag(tag_key="Level", tag_value="7")]
    made = kms.service.perform(ROOT, CreateKeyRequest(tags=tagged)).key_metadata
    asked = msgspec.structs.replace(asked, key_id=made.key_id)
    for wanted, is_refused in ((other, True), (value, False)):
        statement = allow(alice.arn, Condition=when(operator, key, wanted))
        policy = document([allow(root_arn(ACCOUNT)), statement])
        kms.service.perform(ROOT, PutKeyPolicyRequest(key_id=made.key_id, policy=policy))
        assert is_denied(kms, alice, asked) == is_refused


@pytest.mark.parametrize(
    ("operator", "key", "value", "other"),
    [
        ("StringEquals", "kms:KeyOrigin", "EXTERNAL", "AWS_KMS"),
        ("StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT", "RSA_2048"),
        ("StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY"),
        ("Bool", "kms:MultiRegion", "false", "true"),
        ("Bool", "kms:BypassPolicyLockoutSafetyCheck", "false", "true"),
        ("StringEquals", "aws:RequestTag/team", "oz", "us"),
    ],
)
def test_an_identity_policy_can_ask_what_key_is_to_be_made(
    kms: MemoryKms, operator: str, key: str, value: str, other: str
) -> None:
    asked = CreateKeyRequest(origin="EXTERNAL", tags=[Tag(tag_key="team", tag_value="oz")])
    tags = allow(Action="kms:TagResource")
    for name, wanted, is_refused in (("bob", other, True), ("alice", value, False)):
        makes = allow(Action="kms:CreateKey", Condition=when(operator, key, wanted))
        assert is_denied(kms, add_user(kms, name, [makes, tags]), asked) == is_refused


def test_who_makes_a_key_with_tags_must_be_let_tag(kms: MemoryKms) -> None:
    alice = add_user(kms, "alice", [allow(Action="kms:CreateKey")])
    assert not is_denied(kms, alice, CreateKeyRequest())
    tags = [Tag(tag_key="team", tag_value="oz")]
    assert is_denied(kms, alice, CreateKeyRequest(tags=tags))


def test_what_the_decision_adds_goes_before_what_the_request_says() -> None:
    """A caller cannot say it otherwise by a member of the same condition key."""
    facts = RequestFacts()
    facts.add_when_asked(lambda: {"kms:KeySpec": ("of the request",), "kms:Other": ("1",)})
    facts.add({"kms:KeySpec": ("decided",)})
    assert facts.get("kms:other") == ("1",)
    assert facts.get("kms:keyspec") == ("decided",)
    assert facts.get("kms:absent") == ()


def test_an_alias_in_the_request_is_of_the_key_that_it_names(kms: MemoryKms) -> None:
    """A re-encryption may name two: neither opens the other's key."""
    first, second = kms.new_key(), kms.new_key()
    for name, key_id in (("alias/first", first), ("alias/second", second)):
        kms.service.perform(ROOT, CreateAliasRequest(alias_name=name, target_key_id=key_id))
    alice = add_user(kms, "alice")
    blob = kms.service.perform(ROOT, EncryptRequest(key_id=first, plaintext=bytearray(1)))
    asked = ReEncryptRequest(
        ciphertext_blob=blob.ciphertext_blob,
        source_key_id="alias/first",
        destination_key_id="alias/second",
    )
    for of_first, of_second, is_refused in (
        ("alias/first", "alias/second", False),
        ("alias/first", "alias/first", True),
        ("alias/second", "alias/second", True),
    ):
        for key_id, alias in ((first, of_first), (second, of_second)):
            named = allow(alice.arn, Condition=when("StringEquals", "kms:RequestAlias", alias))
            policy = document([allow(root_arn(ACCOUNT)), named])
            kms.service.perform(ROOT, PutKeyPolicyRequest(key_id=key_id, policy=policy))
        assert is_denied(kms, alice, asked) == is_refused


def test_who_keeps_the_key_by_its_tags_is_not_locked_out(kms: MemoryKms) -> None:
    tagged = when("StringEquals", "aws:ResourceTag/team", "oz")
    policy = document([allow(root_arn(ACCOUNT), Condition=tagged)])
    tags = [Tag(tag_key="team", tag_value="oz")]
    made = kms.service.perform(ROOT, CreateKeyRequest(policy=policy, tags=tags)).key_metadata
    kms.service.perform(ROOT, PutKeyPolicyRequest(key_id=made.key_id, policy=policy))
    with pytest.raises(MalformedPolicyError, match="will not allow you to update"):
        kms.service.perform(ROOT, CreateKeyRequest(policy=policy))
