"""Operations on keys, and what is recorded of them."""

import pytest

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, STRANGER, USER, VOLUMES, MemoryKms
from volcrypt.errors import (
    AccessDeniedError,
    InvalidMarkerError,
    KeyNotFoundError,
    UnsupportedOperationError,
)
from volcrypt.kms.messages.keys import (
    CreateKeyRequest,
    DescribeKeyRequest,
    DisableKeyRequest,
    EnableKeyRequest,
    GetKeyPolicyRequest,
    KeyMetadata,
    ListKeysRequest,
)
from volcrypt.kms.model import Caller
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
    "request_",
    [
        CreateKeyRequest(key_usage="SIGN_VERIFY"),
        CreateKeyRequest(key_spec="RSA_2048"),
        CreateKeyRequest(customer_master_key_spec="RSA_2048"),
        CreateKeyRequest(origin="EXTERNAL"),
        CreateKeyRequest(multi_region=True),
    ],
)
def test_other_kinds_of_key_are_not_supported(kms: MemoryKms, request_: CreateKeyRequest) -> None:
    with pytest.raises(UnsupportedOperationError):
        kms.service.perform(ROOT, request_)
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []


def test_a_key_that_is_not_there(kms: MemoryKms) -> None:
    with pytest.raises(KeyNotFoundError) as raised:
        describe(kms, MISSING)
    assert str(raised.value) == f"Key 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{MISSING}' does not exist"
    with pytest.raises(KeyNotFoundError) as raised:
        describe(kms, "alias/x")
    assert str(raised.value) == f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/x is not found."
    with pytest.raises(KeyNotFoundError):
        describe(kms, f"arn:aws:kms:{REGION}:111111111111:key/{kms.new_key()}")


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
    describe(kms, "alias/aws/ebs")
    for caller in (ROOT, VOLUMES):
        with pytest.raises(AccessDeniedError):
            kms.service.perform(caller, DisableKeyRequest(key_id="alias/volcrypt/ebs"))


def test_a_stranger_does_not_make_the_default_key(kms: MemoryKms) -> None:
    with pytest.raises(KeyNotFoundError):
        describe(kms, "alias/aws/ebs", STRANGER)
    assert kms.service.perform(ROOT, ListKeysRequest()).keys == []
