"""How grants end, whose they are, and what policies can ask of them."""

from typing import Any

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, STRANGER, VOLUMES, MemoryKms
from tests.kms.granting import SUBSET, encrypt, grant, grants, may, put_policy
from tests.kms.people import add_user, remove_user
from tests.kms.policies import AWAY, allow, deny, when
from volcrypt.errors import (
    AccessDeniedError,
    DryRunSucceededError,
    InvalidArnError,
    InvalidGrantIdError,
    InvalidGrantTokenError,
    KeyNotFoundError,
    KmsValidationError,
)
from volcrypt.kms.grant_items import GRANTS, delete_grants
from volcrypt.kms.keyring import get_key
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import (
    ReEncryptRequest,
)
from volcrypt.kms.messages.grants import (
    CreateGrantRequest,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from volcrypt.kms.messages.tags import Tag, TagResourceRequest, UntagResourceRequest
from volcrypt.kms.model import Caller

# ---------------------------------------------------------------- retiring and revoking


def test_who_may_retire(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id = kms.new_key()
    helper = add_user(kms, "helper", [allow(Action="kms:RetireGrant")])
    denied = add_user(kms, "denied", [deny(Action="kms:RetireGrant")])

    def retire(by: Caller, *operations: str, retiring: Caller | None = None) -> bool:
        arn = None if retiring is None else retiring.arn
        made = grant(kms, key_id, alice, *operations, retiring_principal=arn)
        return may(kms, by, RetireGrantRequest(grant_token=made.grant_token))

    assert retire(ROOT)
    assert retire(helper)
    assert retire(bob, retiring=bob)
    assert retire(alice, "Encrypt", "RetireGrant")
    assert not retire(alice)
    assert not retire(bob)
    assert not retire(bob, retiring=alice)
    assert not retire(denied, retiring=denied)
    assert not retire(STRANGER)
    assert len(grants(kms, key_id)) == 5
    put_policy(kms, key_id, deny(bob.arn, Action="kms:RetireGrant"))
    assert not retire(bob, retiring=bob)


def test_ways_to_name_the_grant_to_retire(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    made = grant(kms, key_id, alice)
    for request in (
        RetireGrantRequest(),
        RetireGrantRequest(key_id=key_id),
        RetireGrantRequest(grant_id=made.grant_id),
        RetireGrantRequest(grant_token=made.grant_token, key_id=key_id),
    ):
        with pytest.raises(KmsValidationError):
            kms.service.perform(ROOT, request)
    with pytest.raises(InvalidGrantTokenError):
        kms.service.perform(ROOT, RetireGrantRequest(grant_token="x" + made.grant_token[1:]))
    with pytest.raises(InvalidGrantIdError):
        kms.service.perform(ROOT, RetireGrantRequest(key_id=key_id, grant_id="none such"))
    for name in (key_id, arn):
        made = grant(kms, key_id, alice)
        kms.service.perform(ROOT, RetireGrantRequest(key_id=name, grant_id=made.grant_id))
    with pytest.raises(KeyNotFoundError):
        kms.service.perform(ROOT, RetireGrantRequest(grant_token=made.grant_token))
    assert len(grants(kms, key_id)) == 1


def test_revoking(kms: MemoryKms, alice: Caller) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    made = grant(kms, key_id, alice)
    with pytest.raises(KeyNotFoundError) as raised:
        kms.service.perform(ROOT, RevokeGrantRequest(key_id=key_id, grant_id="aabbccdd"))
    assert str(raised.value) == "Grant ID aabbccdd not found"
    with pytest.raises(KeyNotFoundError):
        kms.service.perform(ROOT, RevokeGrantRequest(key_id=other, grant_id=made.grant_id))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, RevokeGrantRequest(key_id=key_id, grant_id=made.grant_id))
    kms.service.perform(ROOT, RevokeGrantRequest(key_id=key_id, grant_id=made.grant_id))
    assert grants(kms, key_id) == []


def test_dry_runs_change_nothing(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    with pytest.raises(DryRunSucceededError):
        grant(kms, key_id, alice, dry_run=True)
    made = grant(kms, key_id, alice)
    requests: list[Request[Any]] = [
        RetireGrantRequest(grant_token=made.grant_token, dry_run=True),
        RevokeGrantRequest(key_id=key_id, grant_id=made.grant_id, dry_run=True),
        encrypt(key_id, grant_tokens=[made.grant_token], dry_run=True),
    ]
    for request in requests:
        with pytest.raises(DryRunSucceededError):
            kms.service.perform(ROOT, request)
    assert len(grants(kms, key_id)) == 1


# ---------------------------------------------------------------- principals


def test_a_later_user_of_the_same_name_inherits_no_grant(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    made = grant(kms, key_id, alice, name="n")
    remove_user(kms, alice)
    assert not may(kms, alice, encrypt(key_id))
    add_user(kms, "alice", user_id="AIDANOTHER")
    assert not may(kms, alice, encrypt(key_id, grant_tokens=[made.grant_token]))
    assert grant(kms, key_id, alice, name="n").grant_id != made.grant_id
    assert may(kms, alice, encrypt(key_id))


def test_a_later_user_of_the_same_name_retires_no_grant(
    kms: MemoryKms, alice: Caller, bob: Caller
) -> None:
    key_id = kms.new_key()
    made = grant(kms, key_id, alice, retiring_principal=bob.arn)
    remove_user(kms, bob)
    add_user(kms, "bob", user_id="AIDANOTHER")
    assert not may(kms, bob, RetireGrantRequest(grant_token=made.grant_token))
    assert len(grants(kms, key_id)) == 1


def test_a_user_who_is_no_more_retires_nothing(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    made = grant(kms, kms.new_key(), bob, retiring_principal=alice.arn)
    remove_user(kms, alice)
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, RetireGrantRequest(grant_token=made.grant_token))


def test_a_user_who_is_none_can_retire_no_grant(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    with pytest.raises(InvalidArnError):
        grant(kms, key_id, alice, retiring_principal=f"{alice.arn}x")


def test_a_token_is_good_in_the_region_of_its_key(kms: MemoryKms, alice: Caller) -> None:
    made = grant(kms, kms.new_key(), alice)
    elsewhere = kms.service.scope(ACCOUNT, "eu-west-1")
    with pytest.raises(KeyNotFoundError):
        elsewhere.perform(ROOT, RetireGrantRequest(grant_token=made.grant_token))
    kms.service.perform(ROOT, RetireGrantRequest(grant_token=made.grant_token))


def test_what_principals_of_other_accounts_may_retire_is_not_told(kms: MemoryKms) -> None:
    other = "arn:aws:iam::111111111111:user/carol"
    with pytest.raises(InvalidArnError):
        kms.service.perform(ROOT, ListRetirableGrantsRequest(retiring_principal=other))


def test_a_policy_can_keep_the_grants_of_tagged_keys(kms: MemoryKms, alice: Caller) -> None:
    key_id = kms.new_key()
    made = grant(kms, key_id, alice, retiring_principal=alice.arn)
    tagged = when("StringEquals", "aws:ResourceTag/kept", "yes")
    put_policy(kms, key_id, deny("*", Action="kms:RetireGrant", Condition=tagged))
    tags = [Tag(tag_key="kept", tag_value="yes")]
    kms.service.perform(ROOT, TagResourceRequest(key_id=key_id, tags=tags))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, RetireGrantRequest(grant_token=made.grant_token))
    kms.service.perform(ROOT, UntagResourceRequest(key_id=key_id, tag_keys=["kept"]))
    kms.service.perform(alice, RetireGrantRequest(grant_token=made.grant_token))


def test_a_grant_to_an_account_is_its_roots_to_share(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    carol = add_user(kms, "carol", account=AWAY)
    dave = add_user(kms, "dave", [allow(Action="kms:Encrypt")], account=AWAY)
    grant(kms, key_id, STRANGER)
    assert may(kms, STRANGER, encrypt(arn))
    assert may(kms, dave, encrypt(arn))
    assert not may(kms, carol, encrypt(arn))


def test_a_grant_to_a_user_of_another_account(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    carol = add_user(kms, "carol", account=AWAY)
    made = grant(kms, key_id, carol, "Encrypt", "RetireGrant")
    assert may(kms, carol, encrypt(arn))
    assert may(kms, carol, RetireGrantRequest(key_id=arn, grant_id=made.grant_id))
    assert not may(kms, carol, encrypt(arn))


def test_what_may_be_retired(kms: MemoryKms, alice: Caller, bob: Caller) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    one = grant(kms, key_id, alice, retiring_principal=bob.arn)
    two = grant(kms, other, alice, retiring_principal=bob.arn)
    grant(kms, key_id, alice, retiring_principal=alice.arn)
    grant(kms, key_id, bob)

    def listed(by: Caller, retiring: str) -> set[str]:
        request = ListRetirableGrantsRequest(retiring_principal=retiring)
        return {entry.grant_id for entry in kms.service.perform(by, request).grants}

    assert listed(ROOT, bob.arn) == {one.grant_id, two.grant_id}
    assert listed(ROOT, ROOT.arn) == set()
    with pytest.raises(AccessDeniedError):
        listed(bob, bob.arn)
    own = [allow(Action="kms:ListRetirableGrants", Resource=bob.arn)]
    reader = add_user(kms, "reader", own)
    assert listed(reader, bob.arn) == {one.grant_id, two.grant_id}
    with pytest.raises(AccessDeniedError):
        listed(reader, alice.arn)
    with pytest.raises(InvalidArnError):
        listed(ROOT, STRANGER.arn)
    for request in (
        ListRetirableGrantsRequest(),
        ListRetirableGrantsRequest(
            retiring_principal=bob.arn, retiring_service_principal="ec2.us-east-1.amazonaws.com"
        ),
    ):
        with pytest.raises(KmsValidationError):
            kms.service.perform(ROOT, request)


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        (when("Bool", "kms:GrantIsForAWSResource", "true"), False),
        (when("Bool", "kms:GrantIsForAWSResource", "false"), True),
        (when("StringEquals", "kms:GrantConstraintType", "EncryptionContextSubset"), True),
        (when("StringEquals", "kms:GrantConstraintType", "EncryptionContextEquals"), False),
        (when("ForAllValues:StringEquals", "kms:GrantOperations", "Encrypt", "Decrypt"), True),
        (when("ForAllValues:StringEquals", "kms:GrantOperations", "Encrypt"), False),
        (when("ForAnyValue:StringEquals", "kms:GrantOperations", "Decrypt"), True),
        (when("StringLike", "kms:GranteePrincipal", "arn:aws:iam::*:user/alice"), True),
        (when("StringLike", "kms:GranteePrincipal", "arn:aws:iam::*:user/bob"), False),
        (when("ArnLike", "kms:RetiringPrincipal", "arn:aws:iam::*:user/bob"), True),
        (when("Null", "kms:RetiringPrincipal", "true"), False),
    ],
)
def test_what_policies_can_ask_of_a_grant(
    kms: MemoryKms, alice: Caller, bob: Caller, condition: dict[str, Any], answer: bool
) -> None:
    key_id = kms.new_key()
    issuer = add_user(kms, "issuer")
    put_policy(kms, key_id, allow(issuer.arn, Action="kms:CreateGrant", Condition=condition))
    request = CreateGrantRequest(
        key_id=key_id,
        grantee_principal=alice.arn,
        retiring_principal=bob.arn,
        operations=["Encrypt", "Decrypt"],
        constraints=SUBSET,
    )
    assert may(kms, issuer, request) is answer


def test_grants_for_resources_come_through_the_volume_service(
    kms: MemoryKms, alice: Caller
) -> None:
    key_id = kms.new_key()
    for_resource = when("Bool", "kms:GrantIsForAWSResource", "false")
    put_policy(kms, key_id, deny("*", Action="kms:CreateGrant", Condition=for_resource))
    with pytest.raises(AccessDeniedError):
        grant(kms, key_id, alice)
    grant(kms, key_id, alice, by=VOLUMES)


@pytest.mark.parametrize("action", ["kms:ReEncryptFrom", "kms:ReEncryptTo"])
def test_reencryption_on_the_same_key_can_be_told(kms: MemoryKms, action: str) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    condition = when("Bool", "kms:ReEncryptOnSameKey", "false")
    for each in (key_id, other):
        put_policy(kms, each, deny("*", Action=action, Condition=condition))
    blob = kms.service.perform(ROOT, encrypt(key_id, {})).ciphertext_blob
    for destination, answer in ((key_id, True), (other, False)):
        request = ReEncryptRequest(ciphertext_blob=blob, destination_key_id=destination)
        assert may(kms, ROOT, request) is answer


# ---------------------------------------------------------------- many


def test_the_grants_of_a_deleted_key_go_with_it(kms: MemoryKms, alice: Caller) -> None:
    key_id, other = kms.new_key(), kms.new_key()
    for _ in range(3):
        grant(kms, key_id, alice)
    kept = grant(kms, other, alice)
    with kms.catalog.changing() as change:
        key = get_key(change, key_id)
        assert key is not None
        delete_grants(change, key)
    assert grants(kms, key_id) == []
    assert [entry.grant_id for entry in grants(kms, other)] == [kept.grant_id]


def test_grants_to_others_are_not_looked_at(
    kms: MemoryKms, alice: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = kms.new_key()
    for _ in range(10):
        grant(kms, key_id, bob)
    mine = grant(kms, key_id, alice)
    read: list[str] = []
    original = kms.catalog.verified_item

    def verified_item(kind: str, id_: str, entry: Any) -> Any:
        if kind == GRANTS:
            read.append(id_.rpartition("/")[2])
        return original(kind, id_, entry)

    monkeypatch.setattr(kms.catalog, "verified_item", verified_item)
    assert may(kms, alice, encrypt(key_id))
    assert read == [mine.grant_id]
