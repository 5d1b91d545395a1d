"""Operations on grants, and what grants let principals do."""

from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, NOW, REGION, ROOT, MemoryKms
from tests.kms.granting import CONTEXT, EQUALS, SUBSET, encrypt, grant, grants, may, put_policy
from tests.kms.people import add_user
from tests.kms.policies import deny
from volcrypt.errors import (
    AccessDeniedError,
    InvalidArnError,
    InvalidGrantTokenError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsError,
    KmsValidationError,
    LimitExceededError,
)
from volcrypt.kms import grant_operations
from volcrypt.kms.messages.data import (
    DecryptRequest,
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from volcrypt.kms.messages.grants import (
    CreateGrantRequest,
    GrantConstraints,
    GrantListEntry,
    ListGrantsRequest,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from volcrypt.kms.messages.keys import DescribeKeyRequest, DisableKeyRequest
from volcrypt.kms.model import Caller, root_arn


def test_a_grant_lets_its_grantee_do_its_operations_with_its_key(
    kms: MemoryKms, alice: Caller, bob: Caller
) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    assert not may(kms, alice, encrypt(key_id))
    made = grant(kms, key_id, alice, "Encrypt", "DescribeKey")
    assert len(made.grant_id) == 64
    assert may(kms, alice, encrypt(key_id))
    assert may(kms, alice, DescribeKeyRequest(key_id=key_id))
    assert not may(kms, alice, GenerateDataKeyRequest(key_id=key_id, number_of_bytes=1))
    assert not may(kms, alice, DisableKeyRequest(key_id=key_id))
    assert not may(kms, alice, encrypt(other))
    assert not may(kms, alice, encrypt(other, grant_tokens=[made.grant_token]))
    assert not may(kms, bob, encrypt(key_id))
    assert not may(kms, bob, encrypt(key_id, grant_tokens=[made.grant_token]))
    kms.service.perform(ROOT, RevokeGrantRequest(key_id=key_id, grant_id=made.grant_id))
    assert not may(kms, alice, encrypt(key_id))
    assert not may(kms, alice, encrypt(key_id, grant_tokens=[made.grant_token]))


def test_the_refusal_is_that_of_the_policies(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    grant(kms, key_id, alice, "Decrypt")
    with pytest.raises(AccessDeniedError) as raised:
        kms.service.perform(alice, encrypt(key_id))
    assert str(raised.value) == (
        f"User: {alice.arn} is not authorized to perform: kms:Encrypt on resource: "
        f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id} because no identity-based policy allows the "
        "kms:Encrypt action"
    )


def test_a_deny_is_stronger_than_a_grant(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    made = grant(kms, key_id, alice)
    put_policy(kms, key_id, deny(alice.arn, Action="kms:Encrypt"))
    assert not may(kms, alice, encrypt(key_id, grant_tokens=[made.grant_token]))
    denied = add_user(kms, "denied", [deny(Action="kms:Encrypt")])
    grant(kms, key_id, denied)
    assert not may(kms, denied, encrypt(key_id))


@pytest.mark.parametrize(
    ("constraints", "context", "answer"),
    [
        (EQUALS, CONTEXT, True),
        (EQUALS, CONTEXT | {"more": "x"}, False),
        (EQUALS, {}, False),
        (SUBSET, CONTEXT, True),
        (SUBSET, CONTEXT | {"more": "x"}, True),
        (SUBSET, {}, False),
        (SUBSET, {"volcrypt:volume-id": "vol-2"}, False),
        (SUBSET, {"volcrypt:volume-id": "VOL-1"}, False),
        (SUBSET, {"Volcrypt:Volume-Id": "vol-1"}, False),
        (GrantConstraints(), {"any": "thing"}, True),
        (
            GrantConstraints(source_arn="arn:aws:ec2:us-east-1:111111111111:volume/v"),
            CONTEXT,
            False,
        ),
    ],
)
def test_constraints(
    kms: MemoryKms,
    alice: Caller,
    constraints: GrantConstraints,
    context: dict[str, str],
    answer: bool,
) -> None:
    key_id = kms.new_key()
    grant(kms, key_id, alice, "Encrypt", "Decrypt", constraints=constraints)
    assert may(kms, alice, encrypt(key_id, context)) is answer


def test_constraints_bind_every_operation_that_has_a_context(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    operations = (
        *("Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"),
        *("ReEncryptFrom", "ReEncryptTo", "DescribeKey"),
    )
    grant(kms, key_id, alice, *operations, constraints=SUBSET)
    blob = kms.service.perform(ROOT, encrypt(key_id)).ciphertext_blob
    unbound = kms.service.perform(ROOT, encrypt(key_id, {})).ciphertext_blob

    def reencrypt(blob: bytes, source: dict[str, str], target: dict[str, str]) -> ReEncryptRequest:
        return ReEncryptRequest(
            ciphertext_blob=blob,
            source_encryption_context=source,
            destination_key_id=key_id,
            destination_encryption_context=target,
        )

    def data_key(context: dict[str, str]) -> GenerateDataKeyRequest:
        return GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256", encryption_context=context)

    def blind_key(context: dict[str, str]) -> GenerateDataKeyWithoutPlaintextRequest:
        return GenerateDataKeyWithoutPlaintextRequest(
            key_id=key_id, number_of_bytes=64, encryption_context=context
        )

    within = [
        DescribeKeyRequest(key_id=key_id),
        DecryptRequest(ciphertext_blob=blob, encryption_context=CONTEXT),
        data_key(CONTEXT),
        blind_key(CONTEXT),
        reencrypt(blob, CONTEXT, CONTEXT),
    ]
    outside = [
        DecryptRequest(ciphertext_blob=unbound),
        data_key({}),
        blind_key({}),
        reencrypt(unbound, {}, CONTEXT),
        reencrypt(blob, CONTEXT, {}),
    ]
    assert [may(kms, alice, request) for request in within] == [True] * len(within)
    assert [may(kms, alice, request) for request in outside] == [False] * len(outside)


def test_listing(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    assert grants(kms, key_id) == []
    one = grant(kms, key_id, alice, name="mine", retiring_principal=bob.arn, constraints=SUBSET)
    two = grant(kms, key_id, bob, "Decrypt")
    listed = {entry.grant_id: entry for entry in grants(kms, arn)}
    assert listed[one.grant_id] == GrantListEntry(
        key_id=arn,
        grant_id=one.grant_id,
        name="mine",
        creation_date=NOW,
        issuing_account=root_arn(ACCOUNT),
        operations=["Encrypt", "Decrypt"],
        grantee_principal=alice.arn,
        retiring_principal=bob.arn,
        constraints=SUBSET,
    )
    assert (listed[two.grant_id].name, listed[two.grant_id].constraints) == ("", None)
    assert [e.grant_id for e in grants(kms, key_id, grant_id=two.grant_id)] == [two.grant_id]
    assert [e.grant_id for e in grants(kms, key_id, grantee_principal=alice.arn)] == [one.grant_id]
    both = grants(kms, key_id, grantee_principal=alice.arn, grant_id=two.grant_id)
    assert both == grants(kms, key_id, grant_id="unknown") == []
    assert grants(kms, kms.new_key(), grant_id=one.grant_id) == []


def test_names_on_the_wire(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    made = kms.service.call(
        ROOT,
        "CreateGrant",
        {
            "KeyId": key_id,
            "GranteePrincipal": alice.arn,
            "Operations": ["Decrypt"],
            "Constraints": {"EncryptionContextSubset": {"a": "b"}},
        },
    )
    assert set(made) == {"GrantId", "GrantToken"}
    assert kms.service.call(ROOT, "ListGrants", {"KeyId": key_id}) == {
        "Grants": [
            {
                "KeyId": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}",
                "GrantId": made["GrantId"],
                "Name": "",
                "CreationDate": NOW,
                "GranteePrincipal": alice.arn,
                "IssuingAccount": ROOT.arn,
                "Operations": ["Decrypt"],
                "Constraints": {"EncryptionContextSubset": {"a": "b"}},
            }
        ],
        "Truncated": False,
    }
    (record,) = [r for r in kms.records() if r.event_name == "CreateGrant"]
    assert record.request_parameters is not None
    assert record.request_parameters["constraints"] == {"encryptionContextSubset": {"a": "b"}}
    assert record.response_elements is not None
    assert record.response_elements["grantId"] == made["GrantId"]


def test_pages(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    made = {grant(kms, key_id, to, retiring_principal=bob.arn).grant_id for to in [alice, bob] * 3}
    grant(kms, other, alice)
    found: list[str] = []
    marker = None
    while True:
        page = kms.service.perform(ROOT, ListGrantsRequest(key_id=key_id, limit=4, marker=marker))
        found += [entry.grant_id for entry in page.grants]
        marker = page.next_marker
        if not page.truncated:
            break
    assert (set(found), len(found)) == (made, 6)
    retirable = ListRetirableGrantsRequest(retiring_principal=bob.arn, limit=4)
    first = kms.service.perform(ROOT, retirable)
    assert (len(first.grants), first.truncated) == (4, True)
    for limit in (0, 101):
        with pytest.raises(KmsValidationError):
            kms.service.perform(ROOT, ListGrantsRequest(key_id=key_id, limit=limit))


def test_a_name_makes_a_request_repeatable(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id = kms.new_key()
    one = grant(kms, key_id, alice, "Encrypt", "Decrypt", name="n", constraints=SUBSET)
    two = grant(kms, key_id, alice, "Decrypt", "Encrypt", name="n", constraints=SUBSET)
    assert one.grant_id == two.grant_id
    assert one.grant_token != two.grant_token
    others = [
        grant(kms, key_id, alice, "Encrypt", name="n", constraints=SUBSET),
        grant(kms, key_id, alice, "Encrypt", "Decrypt", name="n", constraints=EQUALS),
        grant(kms, key_id, alice, "Encrypt", "Decrypt", name="m", constraints=SUBSET),
        grant(kms, key_id, bob, "Encrypt", "Decrypt", name="n", constraints=SUBSET),
        grant(kms, key_id, alice, "Encrypt", "Decrypt", constraints=SUBSET),
        grant(kms, key_id, alice, "Encrypt", "Decrypt", constraints=SUBSET),
        grant(kms, kms.new_key(), alice, "Encrypt", "Decrypt", name="n", constraints=SUBSET),
    ]
    assert len({one.grant_id, *(other.grant_id for other in others)}) == 8
    kms.service.perform(ROOT, RetireGrantRequest(grant_token=two.grant_token))
    again = grant(kms, key_id, alice, "Encrypt", "Decrypt", name="n", constraints=SUBSET)
    assert again.grant_id != one.grant_id


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({"operations": []}, KmsValidationError, "at least one operation"),
        ({"operations": ["DECRYPT"]}, KmsValidationError, "Value '\\[DECRYPT\\]' at 'operations'"),
        ({"operations": ["Decrypt", "Sign"]}, KmsValidationError, "SYMMETRIC_DEFAULT .* Sign"),
        (
            {"operations": ["CreateGrant"]},
            KmsValidationError,
            "^Grants must not contain only the CreateGrant operation.$",
        ),
        ({"grantee_principal": "alice"}, InvalidArnError, "does not refer to a valid principal"),
        ({"grantee_principal": "arn:aws:s3:::x"}, InvalidArnError, "valid principal"),
        (
            {"grantee_principal": f"arn:aws:iam::{ACCOUNT}:user/ghost"},
            InvalidArnError,
            "valid principal",
        ),
        ({"retiring_principal": "bob"}, InvalidArnError, "valid principal"),
        ({"grantee_principal": None}, KmsValidationError, "either GranteePrincipal or"),
        (
            {"grantee_service_principal": "ec2.amazonaws.com"},
            KmsValidationError,
            "either GranteePrincipal or",
        ),
        (
            {"grantee_principal": None, "grantee_service_principal": "ec2.amazonaws.com"},
            KmsValidationError,
            "SourceArn",
        ),
        (
            {"retiring_principal": ROOT.arn, "retiring_service_principal": "ec2.amazonaws.com"},
            KmsValidationError,
            "either RetiringPrincipal or",
        ),
        ({"grantee_service_principal": "ec2"}, KmsValidationError, "granteeServicePrincipal"),
        ({"name": "a b"}, KmsValidationError, "at 'name' failed"),
        ({"grantee_principal": "arn:aws:iam::1:user/a b"}, KmsValidationError, "granteePrincipal"),
        ({"grant_tokens": ["x"] * 11}, KmsValidationError, "at 'grantTokens' failed"),
        ({"grant_tokens": ["x"]}, InvalidGrantTokenError, "grant token"),
        (
            {
                "constraints": GrantConstraints(
                    encryption_context_equals={str(i): "" for i in range(9)}
                )
            },
            KmsValidationError,
            "at most 8",
        ),
        (
            {"constraints": GrantConstraints(encryption_context_subset={"a": "x" * 385})},
            KmsValidationError,
            "more than 384",
        ),
        ({"key_id": "alias/x"}, InvalidArnError, "Key Aliases are not supported"),
        ({"key_id": "x"}, KeyNotFoundError, "Invalid keyId 'x'"),
    ],
)
def test_requests_that_are_refused(
    kms: MemoryKms, members: dict[str, Any], error: type[KmsError], message: str
) -> None:
    key_id = kms.new_key()
    right = {"key_id": key_id, "grantee_principal": ROOT.arn, "operations": ["Decrypt"]}
    with pytest.raises(error, match=message):
        kms.service.perform(ROOT, CreateGrantRequest(**(right | members)))
    assert grants(kms, key_id) == []


def test_a_grant_for_a_service_is_kept_and_opens_nothing_here(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    request = CreateGrantRequest(
        key_id=key_id,
        grantee_service_principal="ec2.us-east-1.amazonaws.com",
        retiring_service_principal="ec2.us-east-1.amazonaws.com",
        operations=["Decrypt"],
        constraints=GrantConstraints(source_arn="arn:aws:ec2:us-east-1:111111111111:volume/v"),
    )
    kms.service.perform(ROOT, request)
    (entry,) = grants(kms, key_id)
    assert (entry.grantee_principal, entry.grantee_service_principal) == (
        None,
        "ec2.us-east-1.amazonaws.com",
    )
    assert (entry.retiring_principal, entry.retiring_service_principal) == (
        None,
        "ec2.us-east-1.amazonaws.com",
    )


def test_states_and_limits(kms: MemoryKms, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = kms.new_key()
    monkeypatch.setattr(grant_operations, "MAX_GRANTS_PER_KEY", 2)
    named = grant(kms, key_id, alice, name="n")
    grant(kms, key_id, alice)
    with pytest.raises(LimitExceededError):
        grant(kms, key_id, alice)
    assert grant(kms, key_id, alice, name="n").grant_id == named.grant_id
    kms.service.perform(ROOT, DisableKeyRequest(key_id=key_id))
    with pytest.raises(KeyDisabledError):
        grant(kms, key_id, alice)
    kms.service.perform(ROOT, RevokeGrantRequest(key_id=key_id, grant_id=named.grant_id))
    assert len(grants(kms, key_id)) == 1


# ---------------------------------------------------------------- passing on


def test_what_a_grantee_passes_on(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id = kms.new_key()
    given = grant(kms, key_id, alice, "Encrypt", "CreateGrant", "RetireGrant", constraints=SUBSET)
    wider = CONTEXT | {"more": "x"}

    def passes(*operations: str, constraints: GrantConstraints | None = SUBSET) -> bool:
        request = CreateGrantRequest(
            key_id=key_id,
            grantee_principal=bob.arn,
            operations=list(operations),
            constraints=constraints,
            grant_tokens=[given.grant_token],
        )
        return may(kms, alice, request)

    assert passes("Encrypt")
    assert passes("Encrypt", "CreateGrant", "RetireGrant")
    assert passes("Encrypt", constraints=EQUALS)
    assert passes("Encrypt", constraints=GrantConstraints(encryption_context_subset=wider))
    assert passes("Encrypt", constraints=GrantConstraints(encryption_context_equals=wider))
    assert not passes("Decrypt")
    assert not passes("Encrypt", "Decrypt")
    assert not passes("Encrypt", "DescribeKey")
    assert not passes("Encrypt", constraints=None)
    assert not passes("Encrypt", constraints=GrantConstraints(encryption_context_subset={"a": "b"}))
    assert may(kms, bob, encrypt(key_id))
    assert not may(kms, bob, encrypt(key_id, {}))


def test_only_a_grant_with_create_grant_passes_on(
    kms: MemoryKms, alice: Caller, bob: Caller
) -> None:
    key_id = kms.new_key()
    grant(kms, key_id, alice)
    with pytest.raises(AccessDeniedError):
        grant(kms, key_id, bob, by=alice)
