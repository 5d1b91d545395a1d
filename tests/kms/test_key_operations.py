"""Operations on keys, and what is recorded of them."""

from dataclasses import replace

import pytest

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, STRANGER, USER, VOLUMES, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    InvalidArnError,
    InvalidMarkerError,
    InvalidStateError,
    KeyNotFoundError,
    KmsValidationError,
    LimitExceededError,
    MalformedPolicyError,
    UnsupportedOperationError,
)
from volcrypt.kms.keyring import get_key, put_key
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    DescribeKeyRequest,
    DisableKeyRequest,
    EnableKeyRequest,
    GetKeyPolicyRequest,
    KeyMetadata,
    ListKeysRequest,
    UpdateKeyDescriptionRequest,
)
from volcrypt.kms.model import Caller, Deadline, KeyOrigin, root_arn
from volcrypt.kms.policy import default_policy

MISSING = "00112233-4455-6677-8899-aabbccddeeff"


def describe(kms: MemoryKms, text: str, caller: Caller = ROOT) -> KeyMetadata:
    return kms.service.perform(caller, DescribeKeyRequest(key_id=text)).key_metadata


def test_a_new_key(kms: MemoryKms) -> None:
    made = kms.service.perform(ROOT, CreateKeyRequest(description="mine")).key_metadata
    assert made.arn == f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{made.key_id}"
    assert (made.enabled, made.key_state, made.key_manager) == (True, "Enabled", "CUSTOMER")
    assert (made.description, made.creation_date, made.origin) == ("mine", NOW, "AWS_KMS")
    assert made == describe(kms, made.key_id) == describe(kms, made.arn)
    assert len(made.current_key_material_id or "") == 64


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
            "keys of key spec RSA_2048 are not supported",
        ),
        (
            {"CustomerMasterKeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
            "keys of key spec HMAC_256 are not supported",
        ),
        ({"MultiRegion": True}, "multi-region keys are not supported"),
        ({"Origin": "EXTERNAL_KEY_STORE"}, "keys in external key stores are not supported"),
        ({"XksKeyId": "x"}, "the member XksKeyId is not supported"),
    ],
)
def test_other_kinds_of_key_are_not_supported(
    kms: MemoryKms, members: dict[str, object], text: str
) -> None:
    with pytest.raises(UnsupportedOperationError) as raised:
        kms.service.call(ROOT, "CreateKey", members)
    assert str(raised.value) == text
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"KeySpec": "HMAC_256"},
            (
                "You must specify a KeyUsage value for all KMS keys except for "
                "symmetric encryption keys."
            ),
        ),
        (
            {"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"},
            "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048",
        ),
        (
            {"KeyUsage": "SIGN_VERIFY"},
            "KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT",
        ),
        (
            {"KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT"},
            (
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
                "CustomerMasterKeySpec is deprecated."
            ),
        ),
    ],
)
def test_kinds_of_key_that_there_are_not(
    kms: MemoryKms, members: dict[str, object], text: str
) -> None:
    with pytest.raises(KmsValidationError) as raised:
        kms.service.call(ROOT, "CreateKey", members)
    assert str(raised.value) == text


def test_the_ways_to_ask_for_a_symmetric_key(kms: MemoryKms) -> None:
    for members in (
        {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "Origin": "AWS_KMS"},
        {"CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "MultiRegion": False},
    ):
        made = kms.service.call(ROOT, "CreateKey", members)["KeyMetadata"]
        assert made["KeyState"] == "Enabled"


def test_all_that_is_told_of_a_key(kms: MemoryKms) -> None:
    made = kms.service.call(ROOT, "CreateKey", {"Description": "mine"})["KeyMetadata"]
    material_id = made["CurrentKeyMaterialId"]
    assert made == {
        "AWSAccountId": ACCOUNT,
        "KeyId": made["KeyId"],
        "Arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{made['KeyId']}",
        "CreationDate": NOW,
        "Enabled": True,
        "Description": "mine",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
        "CurrentKeyMaterialId": material_id,
    }
    assert kms.service.call(ROOT, "DescribeKey", {"KeyId": made["KeyId"]})["KeyMetadata"] == made


def test_a_key_for_imported_material_begins_without_any(kms: MemoryKms) -> None:
    made = kms.service.call(ROOT, "CreateKey", {"Origin": "EXTERNAL"})["KeyMetadata"]
    assert (made["Enabled"], made["KeyState"], made["Origin"]) == (
        False,
        "PendingImport",
        "EXTERNAL",
    )
    assert not made.keys() & {"CurrentKeyMaterialId", "ExpirationModel", "ValidTo"}
    with pytest.raises(InvalidStateError) as raised:
        kms.service.call(ROOT, "Encrypt", {"KeyId": made["KeyId"], "Plaintext": "AA=="})
    assert str(raised.value) == f"{made['Arn']} is pending import."


def test_imported_material_and_its_expiry(kms: MemoryKms) -> None:
    key_id = kms.new_key()

    def described(*dates: float | None) -> dict[str, object]:
        with kms.catalog.changing() as change:
            key = get_key(change, key_id)
            assert key is not None
            materials = tuple(
                replace(
                    key.current_material,
                    expiry=None if date is None else Deadline(date=date, observed_until=1),
                )
                for date in dates
            )
            put_key(change, replace(key, origin=KeyOrigin.EXTERNAL, materials=materials))
        answer = kms.service.call(ROOT, "DescribeKey", {"KeyId": key_id})["KeyMetadata"]
        names = ("KeyState", "ExpirationModel", "ValidTo")
        return {name: answer[name] for name in names if name in answer}

    enabled = {"KeyState": "Enabled"}
    assert described(None) == enabled | {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    expires = enabled | {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": NOW + 5}
    assert described(None, NOW + 9, NOW + 5) == expires
    kms.now = NOW + 5
    assert described(NOW + 9, NOW + 5) == {"KeyState": "PendingImport"}


def test_a_policy_of_ones_own(kms: MemoryKms) -> None:
    policy = default_policy(ACCOUNT).replace("Enable IAM User Permissions", "mine")
    made = kms.service.perform(ROOT, CreateKeyRequest(policy=policy)).key_metadata
    assert kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=made.key_id)).policy == policy
    for text in ("no JSON", "[]", "{"):
        with pytest.raises(MalformedPolicyError):
            kms.service.perform(ROOT, CreateKeyRequest(policy=text))
    with pytest.raises(LimitExceededError, match="more than 32768 bytes"):
        kms.service.perform(ROOT, CreateKeyRequest(policy=policy + " " * 32768))


def test_a_new_description(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for description in ("new", ""):
        request = UpdateKeyDescriptionRequest(key_id=key_id, description=description)
        kms.service.perform(ROOT, request)
        assert describe(kms, key_id).description == description
    with pytest.raises(AccessDeniedError):
        kms.service.perform(USER, request)


@pytest.mark.parametrize(
    "operation",
    [
        "EnableKey",
        "DisableKey",
        "UpdateKeyDescription",
        "GetKeyPolicy",
        "ListAliases",
        "TagResource",
        "UntagResource",
        "ListResourceTags",
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "RotateKeyOnDemand",
        "ListKeyRotations",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
    ],
)
def test_operations_that_take_no_alias(kms: MemoryKms, operation: str) -> None:
    call = kms.service.call
    call(ROOT, "CreateAlias", {"AliasName": "alias/x", "TargetKeyId": kms.new_key()})
    own: dict[str, dict[str, object]] = {
        "UpdateKeyDescription": {"Description": ""},
        "TagResource": {"Tags": []},
        "UntagResource": {"TagKeys": []},
    }
    for name in ("alias/x", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/x"):
        with pytest.raises(InvalidArnError, match="Key Aliases are not supported"):
            call(ROOT, operation, {"KeyId": name} | own.get(operation, {}))
    with pytest.raises(KeyNotFoundError, match="Invalid keyId 'x'"):
        call(ROOT, operation, {"KeyId": "x"} | own.get(operation, {}))


def test_a_key_that_is_not_there(kms: MemoryKms) -> None:
    with pytest.raises(KeyNotFoundError) as raised:
        describe(kms, MISSING)
    assert str(raised.value) == f"Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{MISSING}' does not exist"
    with pytest.raises(KeyNotFoundError) as raised:
        describe(kms, "alias/x")
    assert str(raised.value) == f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/x is not found."
    with pytest.raises(KeyNotFoundError):
        describe(kms, f"arn:aws:kms:{REGION}:111111111111:key/{kms.new_key()}")
    other = f"mrk-{'0a' * 16}"
    with pytest.raises(KeyNotFoundError, match=f"key/{other}' does not exist"):
        describe(kms, other)
    with pytest.raises(KeyNotFoundError, match=r"^Invalid arn eu-west-1$"):
        describe(kms, f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{MISSING}")


def test_disable_and_enable(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for _ in range(2):
        kms.service.perform(ROOT, DisableKeyRequest(key_id=key_id))
        assert describe(kms, key_id).key_state == "Disabled"
        assert not describe(kms, key_id).enabled
    kms.service.perform(ROOT, EnableKeyRequest(key_id=key_id))
    assert describe(kms, key_id).enabled


def test_listing_in_pages(kms: MemoryKms) -> None:
    ids = sorted(kms.new_key() for _ in range(5))
    found: list[str] = []
    marker = None
    for _ in range(3):
        page = kms.service.perform(ROOT, ListKeysRequest(limit=2, marker=marker))
        found += [key.key_id for key in page.keys]
        assert page.truncated == (page.next_marker is not None)
        marker = page.next_marker
    assert found == ids
    assert marker is None


def test_accounts_and_regions_have_lists_of_their_own(kms: MemoryKms) -> None:
    homes = [(ACCOUNT, REGION), (ACCOUNT, "us-east-11"), ("111111111111", REGION)]
    made: list[set[str]] = []
    for account, region in homes:
        caller = Caller(arn=root_arn(account), account=account)
        service = kms.service.scope(account, region)
        ids = {service.perform(caller, CreateKeyRequest()).key_metadata.key_id for _ in range(3)}
        for number, key_id in enumerate(sorted(ids)):
            alias = {"AliasName": f"alias/{number}", "TargetKeyId": key_id}
            service.call(caller, "CreateAlias", alias)
        made.append(ids)
    for (account, region), ids in zip(homes, made, strict=True):
        caller = Caller(arn=root_arn(account), account=account)
        service = kms.service.scope(account, region)
        first = service.perform(caller, ListKeysRequest(limit=2))
        rest = service.perform(caller, ListKeysRequest(limit=2, marker=first.next_marker))
        assert [key.key_id for key in (*first.keys, *rest.keys)] == sorted(ids)
        assert not rest.truncated
        aliases = service.call(caller, "ListAliases", {})["Aliases"]
        assert [alias["TargetKeyId"] for alias in aliases] == sorted(ids)
        assert {alias["AliasArn"].rpartition(":")[0] for alias in aliases} == {
            f"arn:aws:kms:{region}:{account}"
        }
        elsewhere = made[0] if ids is not made[0] else made[1]
        with pytest.raises(KeyNotFoundError):
            service.perform(caller, DescribeKeyRequest(key_id=min(elsewhere)))


@pytest.mark.parametrize("marker", ["x", "ÿ", "_w=="])
def test_a_marker_of_nobody(kms: MemoryKms, marker: str) -> None:
    with pytest.raises(InvalidMarkerError):
        kms.service.perform(ROOT, ListKeysRequest(marker=marker))


def test_the_policy_of_a_key(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    response = kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=key_id))
    assert (response.policy, response.policy_name) == (default_policy(ACCOUNT), "default")
    with pytest.raises(KeyNotFoundError, match="No such policy exists"):
        kms.service.perform(ROOT, GetKeyPolicyRequest(key_id=key_id, policy_name="x"))


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (USER, "because no identity-based policy allows the kms:DisableKey action"),
        (
            STRANGER,
            (
                "because the resource does not exist in this Region, no resource-based policies "
                "allow access, or a resource-based policy explicitly denies access"
            ),
        ),
    ],
)
def test_others_may_nothing(kms: MemoryKms, caller: Caller, reason: str) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    with pytest.raises(AccessDeniedError) as raised:
        kms.service.perform(caller, DisableKeyRequest(key_id=arn))
    assert str(raised.value) == (
        f"User: {caller.arn} is not authorized to perform: kms:DisableKey on resource: {arn} "
        f"{reason}"
    )
    with pytest.raises(AccessDeniedError):
        kms.service.perform(caller, ListKeysRequest())
    with pytest.raises(AccessDeniedError):
        kms.service.perform(caller, CreateKeyRequest())
    assert describe(kms, key_id).enabled


def test_the_default_key_is_made_when_it_is_first_named(kms: MemoryKms) -> None:
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []
    made = describe(kms, "alias/aws/ebs")
    assert made.key_manager == "AWS"
    assert describe(kms, "alias/volcrypt/ebs") == made == describe(kms, made.key_id, VOLUMES)
    assert len(kms.service.perform(ROOT, ListKeysRequest()).keys) == 1
    assert [r.event_type for r in kms.records() if r.event_name == "CreateKey"] == [
        "AwsServiceEvent"
    ]


def test_the_default_key_cannot_be_changed(kms: MemoryKms) -> None:
    key_id = describe(kms, "alias/aws/ebs").key_id
    for caller in (ROOT, VOLUMES):
        for operation in (
            "DisableKey",
            "EnableKeyRotation",
            "DisableKeyRotation",
            "RotateKeyOnDemand",
            "ScheduleKeyDeletion",
        ):
            with pytest.raises(AccessDeniedError):
                kms.service.call(caller, operation, {"KeyId": key_id})


def test_the_default_key_is_rotated_yearly(kms: MemoryKms) -> None:
    key_id = describe(kms, "alias/aws/ebs").key_id
    status = kms.service.call(ROOT, "GetKeyRotationStatus", {"KeyId": key_id})
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 365)
    assert status["NextRotationDate"] == NOW + 365 * 86_400


def test_a_stranger_does_not_make_the_default_key(kms: MemoryKms) -> None:
    with pytest.raises(KeyNotFoundError):
        describe(kms, "alias/aws/ebs", STRANGER)
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []
