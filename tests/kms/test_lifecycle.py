"""Key state x operation, the whole table written out once more by hand (after the guide)."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, MemoryKms
from volcrypt.errors import (
    InvalidStateError,
    KeyDisabledError,
    KmsError,
    UnsupportedOperationError,
)
from volcrypt.kms.custom_key_store import ConnectionState, CustomKeyStore, put_key_store
from volcrypt.kms.keyring import get_key, put_key
from volcrypt.kms.lifecycle import TABLE, check_state, current_state
from volcrypt.kms.model import Deadline, KeyMaterial, KeyOrigin, KeyState, KmsKey
from volcrypt.kms.protocol import OPERATIONS

ARN = "arn:aws:kms:us-east-1:000000000000:key/k"
STATES = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.PENDING_IMPORT,
    KeyState.UNAVAILABLE,
)
# o allowed, d disabled, p pending deletion, i pending import, u unavailable, n not pending deletion
EXPECTED = {
    "Encrypt": "odpiu",
    "Decrypt": "odpiu",
    "ReEncrypt": "odpiu",
    "GenerateDataKey": "odpiu",
    "GenerateDataKeyWithoutPlaintext": "odpiu",
    "CreateGrant": "odpio",
    "RotateKeyOnDemand": "odpiu",
    "EnableKeyRotation": "odpiu",
    "DisableKeyRotation": "odpiu",
    "GetKeyRotationStatus": "ooooo",
    "ListKeyRotations": "ooooo",
    "EnableKey": "oopio",
    "DisableKey": "oopio",
    "ScheduleKeyDeletion": "oopoo",
    "CancelKeyDeletion": "nnonn",
    "CreateAlias": "oopoo",
    "UpdateAlias": "oopoo",
    "TagResource": "oopoo",
    "UntagResource": "oopoo",
    "ListResourceTags": "ooooo",
    "UpdateKeyDescription": "oopoo",
    "GetParametersForImport": "oopoo",
    "ImportKeyMaterial": "oopoo",
    "DeleteImportedKeyMaterial": "ooooo",
    "DeleteAlias": "ooooo",
    "DescribeKey": "ooooo",
    "GetKeyPolicy": "ooooo",
    "PutKeyPolicy": "ooooo",
    "ListKeyPolicies": "ooooo",
    "ListAliases": "ooooo",
    "ListGrants": "ooooo",
    "RetireGrant": "ooooo",
    "RevokeGrant": "ooooo",
}
ANSWERS: dict[str, tuple[type[KmsError], str]] = {
    "d": (KeyDisabledError, "is disabled."),
    "p": (InvalidStateError, "is pending deletion."),
    "i": (InvalidStateError, "is pending import."),
    "u": (InvalidStateError, "is unavailable."),
    "n": (InvalidStateError, "is not pending deletion."),
}
FOR_IMPORTED = {"GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"}
FOR_GENERATED = {"EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus"}
NOT_FOR_STORES = FOR_IMPORTED | FOR_GENERATED | {"RotateKeyOnDemand", "ListKeyRotations"}
CASES = [
    (operation, state, answer)
    for operation, row in EXPECTED.items()
    for state, answer in zip(STATES, row, strict=True)
]


@pytest.mark.parametrize(("operation", "state", "answer"), CASES)
def test_the_table(operation: str, state: KeyState, answer: str) -> None:
    origin = KeyOrigin.EXTERNAL if operation in FOR_IMPORTED else KeyOrigin.AWS_KMS
    if answer == "o":
        check_state(operation, arn=ARN, state=state, origin=origin)
        return
    error, text = ANSWERS[answer]
    with pytest.raises(error) as raised:
        check_state(operation, arn=ARN, state=state, origin=origin)
    assert str(raised.value) == f"{ARN} {text}"


def test_every_row_of_the_table_is_tested() -> None:
    assert {operation for operation, _ in TABLE} == EXPECTED.keys()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", sorted(NOT_FOR_STORES))
def test_the_wrong_origin_is_refused_in_every_state(operation: str, state: KeyState) -> None:
    wrong = {KeyOrigin.AWS_CLOUDHSM}
    if operation in FOR_IMPORTED:
        wrong.add(KeyOrigin.AWS_KMS)
    if operation in FOR_GENERATED:
        wrong.add(KeyOrigin.EXTERNAL)
    for origin in wrong:
        with pytest.raises(UnsupportedOperationError) as raised:
            check_state(operation, arn=ARN, state=state, origin=origin)
        assert str(raised.value) == (
            f"{ARN} origin is {origin.value} which is not valid for this operation."
        )


# ------------------------------------------------- the same table through the service


class Prepared:
    """A key in a state, and what requests on it need."""

    def __init__(self, kms: MemoryKms, operation: str, state: KeyState) -> None:
        call = kms.service.call
        self.key_id = call(ROOT, "CreateKey", {})["KeyMetadata"]["KeyId"]
        self.other_id = call(ROOT, "CreateKey", {})["KeyMetadata"]["KeyId"]
        encrypted = call(ROOT, "Encrypt", {"KeyId": self.key_id, "Plaintext": "AA=="})
        self.blob = encrypted["CiphertextBlob"]
        call(ROOT, "CreateAlias", {"AliasName": "alias/own", "TargetKeyId": self.key_id})
        call(ROOT, "CreateAlias", {"AliasName": "alias/other", "TargetKeyId": self.other_id})
        with kms.catalog.changing() as change:
            key = get_key(change, self.key_id)
            assert key is not None
            put_key(change, in_state(key, operation, state))

    def members(self, operation: str) -> dict[str, Any]:
        """What a request for the operation on the key has."""
        token = base64.b64encode(bytes(64)).decode()
        own: dict[str, dict[str, Any]] = {
            "Encrypt": {"Plaintext": "AA=="},
            "Decrypt": {"CiphertextBlob": self.blob},
            "ReEncrypt": {"CiphertextBlob": self.blob, "DestinationKeyId": self.other_id},
            "GenerateDataKey": {"KeySpec": "AES_256"},
            "GenerateDataKeyWithoutPlaintext": {"NumberOfBytes": 64},
            "CreateGrant": {"GranteePrincipal": ROOT.arn, "Operations": ["Encrypt"]},
            "TagResource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
            "UntagResource": {"TagKeys": ["a"]},
            "UpdateKeyDescription": {"Description": "new"},
            "PutKeyPolicy": {"Policy": "{}", "BypassPolicyLockoutSafetyCheck": True},
            "RetireGrant": {"GrantId": "0" * 64},
            "RevokeGrant": {"GrantId": "0" * 64},
            "GetParametersForImport": {
                "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
                "WrappingKeySpec": "RSA_2048",
            },
            "ImportKeyMaterial": {
                "ImportToken": token,
                "EncryptedKeyMaterial": token,
                "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
            },
            "CreateAlias": {"AliasName": "alias/new", "TargetKeyId": self.key_id},
            "UpdateAlias": {"AliasName": "alias/other", "TargetKeyId": self.key_id},
            "DeleteAlias": {"AliasName": "alias/own"},
        }
        names_no_key = {"CreateAlias", "UpdateAlias", "DeleteAlias", "ReEncrypt"}
        named = {} if operation in names_no_key else {"KeyId": self.key_id}
        return named | own.get(operation, {})


def in_state(key: KmsKey, operation: str, state: KeyState) -> KmsKey:
    if state is KeyState.UNAVAILABLE:
        return replace(key, origin=KeyOrigin.AWS_CLOUDHSM, custom_key_store_id="cks-1")
    if state is KeyState.PENDING_IMPORT:
        gone = tuple(replace(material, wrapped=None) for material in key.materials)
        return replace(key, origin=KeyOrigin.EXTERNAL, state=state, materials=gone)
    if operation in FOR_IMPORTED:
        key = replace(key, origin=KeyOrigin.EXTERNAL)
    if state is KeyState.PENDING_DELETION:
        key = replace(key, deletion=Deadline(date=NOW + 1, observed_until=1))
    return replace(key, state=state)


@pytest.mark.parametrize(
    ("operation", "state", "answer"), [case for case in CASES if case[0] in OPERATIONS]
)
def test_the_table_through_the_service(
    kms: MemoryKms, operation: str, state: KeyState, answer: str
) -> None:
    prepared = Prepared(kms, operation, state)

    def call() -> object:
        return kms.service.call(ROOT, operation, prepared.members(operation))

    origin = _wrong_origin(operation, state)
    if origin is not None:
        with pytest.raises(UnsupportedOperationError, match=f"origin is {origin} which"):
            call()
    elif answer == "o":
        check_allowed(call)
    else:
        error, text = ANSWERS[answer]
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value).endswith(f":key/{prepared.key_id} {text}")


def _wrong_origin(operation: str, state: KeyState) -> str | None:
    if state is KeyState.UNAVAILABLE and operation in NOT_FOR_STORES:
        return "AWS_CLOUDHSM"
    if state is KeyState.PENDING_IMPORT and operation in FOR_GENERATED:
        return "EXTERNAL"
    return None


def check_allowed(call: Callable[[], object]) -> None:
    """It goes through, or is refused for another reason than the key's state: a grant that there
    is not, a token that nobody gave."""
    try:
        call()
    except (KeyDisabledError, InvalidStateError, UnsupportedOperationError):
        raise
    except KmsError:
        pass


def test_every_operation_on_a_key_is_in_the_table() -> None:
    on_no_key = {
        "CreateKey",
        "ListKeys",
        "GenerateRandom",
        "ListRetirableGrants",
        "CreateCustomKeyStore",
        "DescribeCustomKeyStores",
        "ConnectCustomKeyStore",
        "DisconnectCustomKeyStore",
        "UpdateCustomKeyStore",
        "DeleteCustomKeyStore",
    }
    assert OPERATIONS.keys() - on_no_key <= EXPECTED.keys()


def test_the_destination_of_a_reencryption_counts_as_well(kms: MemoryKms) -> None:
    prepared = Prepared(kms, "ReEncrypt", KeyState.ENABLED)
    kms.service.call(ROOT, "DisableKey", {"KeyId": prepared.other_id})
    with pytest.raises(KeyDisabledError, match=f"{prepared.other_id} is disabled"):
        kms.service.call(ROOT, "ReEncrypt", prepared.members("ReEncrypt"))


def test_an_alias_leaves_a_key_that_waits_for_its_deletion(kms: MemoryKms) -> None:
    prepared = Prepared(kms, "UpdateAlias", KeyState.PENDING_DELETION)
    members = {"AliasName": "alias/own", "TargetKeyId": prepared.other_id}
    assert kms.service.call(ROOT, "UpdateAlias", members) == {}


# ------------------------------------------------- the state that a request sees


def key_with(*materials: KeyMaterial, **changes: Any) -> KmsKey:
    key = KmsKey(
        key_id="k",
        account="0",
        region="r",
        created_at=0,
        description="",
        state=KeyState.ENABLED,
        manager=msgspec.UNSET,  # type: ignore[arg-type]  # not looked at
        origin=KeyOrigin.EXTERNAL,
        policy="",
        materials=materials,
    )
    return replace(key, **changes)


def material(*, gone: bool = False, expires: float | None = None) -> KeyMaterial:
    return KeyMaterial(
        material_id="m",
        wrapped=None if gone else msgspec.UNSET,  # type: ignore[arg-type]  # not looked at
        created_at=0,
        expiry=None if expires is None else Deadline(date=expires, observed_until=10**9),
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (key_with(), KeyState.PENDING_IMPORT),
        (key_with(material()), KeyState.ENABLED),
        (key_with(material(), state=KeyState.DISABLED), KeyState.DISABLED),
        (key_with(material(gone=True)), KeyState.PENDING_IMPORT),
        (key_with(material(gone=True), material()), KeyState.PENDING_IMPORT),
        (key_with(material(expires=100)), KeyState.PENDING_IMPORT),
        (key_with(material(expires=101)), KeyState.ENABLED),
        (key_with(material(expires=100), state=KeyState.DISABLED), KeyState.PENDING_IMPORT),
        (key_with(material(), pending_material=material(expires=1)), KeyState.ENABLED),
        (key_with(state=KeyState.PENDING_DELETION), KeyState.PENDING_DELETION),
        (key_with(origin=KeyOrigin.AWS_KMS), KeyState.ENABLED),
    ],
)
def test_what_follows_from_the_material(key: KmsKey, expected: KeyState) -> None:
    assert current_state(key, now=100, is_connected=True) is expected


@pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED])
def test_a_key_whose_store_is_away_is_unavailable(state: KeyState) -> None:
    key = key_with(origin=KeyOrigin.AWS_CLOUDHSM, state=state)
    assert current_state(key, now=0, is_connected=False) is KeyState.UNAVAILABLE
    assert current_state(key, now=0, is_connected=True) is state
    waiting = replace(key, state=KeyState.PENDING_DELETION)
    assert current_state(waiting, now=0, is_connected=False) is KeyState.PENDING_DELETION


@pytest.mark.parametrize(
    ("connection", "expected"), [("CONNECTED", "Enabled"), ("DISCONNECTED", "Unavailable")]
)
def test_the_state_follows_the_connection(kms: MemoryKms, connection: str, expected: str) -> None:
    prepared = Prepared(kms, "DescribeKey", KeyState.UNAVAILABLE)
    store = CustomKeyStore(
        id="cks-1",
        account=ACCOUNT,
        region=REGION,
        name="mine",
        cluster_id="cluster-2a23b4cdefg",
        trust_anchor_certificate="",
        created_at=NOW,
        password=b"",
        connection_state=ConnectionState(connection),
    )
    with kms.catalog.changing() as change:
        put_key_store(change, store)
    described = kms.service.call(ROOT, "DescribeKey", {"KeyId": prepared.key_id})["KeyMetadata"]
    assert (described["KeyState"], described["Enabled"]) == (expected, expected == "Enabled")
    assert described["CustomKeyStoreId"] == "cks-1"
    assert described["CloudHsmClusterId"] == "cluster-2a23b4cdefg"
    assert "CurrentKeyMaterialId" not in described
