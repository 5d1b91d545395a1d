"""Operations on users, their identity policies and access keys."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.fakes.kms import ACCOUNT, NOW, ROOT, STRANGER, USER, MemoryKms
from tests.kms.people import add_user
from tests.kms.policies import AWAY, allow, deny, document
from volcrypt.errors import (
    AccessDeniedError,
    DeleteConflictError,
    EntityExistsError,
    IntegrityError,
    KmsError,
    KmsValidationError,
    MalformedIdentityPolicyError,
    NoSuchEntityError,
    PrincipalAccessDeniedError,
    PrincipalLimitError,
    UnknownOperationError,
)
from volcrypt.kms import principal_operations
from volcrypt.kms.messages.base import Request
from volcrypt.kms.messages.data import EncryptRequest
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.kms.messages.principals import (
    AccessKeyMetadata,
    CreateAccessKeyRequest,
    CreateUserRequest,
    DeleteAccessKeyRequest,
    DeleteUserPolicyRequest,
    DeleteUserRequest,
    GetUserPolicyRequest,
    GetUserRequest,
    ImportAccessKeyRequest,
    ListAccessKeysRequest,
    ListUserPoliciesRequest,
    ListUsersRequest,
    NewAccessKey,
    PutUserPolicyRequest,
    UpdateAccessKeyRequest,
    User,
)
from volcrypt.kms.model import Caller
from volcrypt.kms.principals import AccessKey
from volcrypt.kms.protocol import encode_response
from volcrypt.operations.vault import call
from volcrypt.wire.claim import HttpRequest
from volcrypt.wire.credentials import caller_of

ENCRYPTS = document([allow(Action="kms:Encrypt")])
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE = "AKIAIOSFODNN7EXAMPLE"


@pytest.fixture
def alice(kms: MemoryKms) -> Caller:
    kms.service.perform(ROOT, CreateUserRequest(user_name="alice"))
    return USER


def put_policy(
    kms: MemoryKms, text: str = ENCRYPTS, *, name: str = "own", user: str = "alice"
) -> None:
    request = PutUserPolicyRequest(user_name=user, policy_name=name, policy_document=text)
    kms.service.perform(ROOT, request)


def new_key(kms: MemoryKms, user: str = "alice", **members: Any) -> NewAccessKey:
    request = CreateAccessKeyRequest(user_name=user, **members)
    return kms.service.perform(ROOT, request).access_key


def signing(key: AccessKey, address: str) -> Caller:
    """Who asks in a request that is signed with the key, over TLS."""
    headers = [("user-agent", "x")]
    request = HttpRequest(
        method="POST", path="/", query="", headers=headers, body=b"", is_secure=True
    )
    return caller_of(key, request, address=address)


def found(kms: MemoryKms, id_: str) -> AccessKey:
    key = kms.service.find_access_key(id_)
    assert key is not None
    return key


def test_a_user(kms: MemoryKms) -> None:
    made = kms.service.perform(ROOT, CreateUserRequest(user_name="alice"))
    user = made.user
    assert user == User(
        user_name="alice", user_id=user.user_id, arn=USER.arn, create_date=NOW, path="/"
    )
    assert user.user_id.startswith("AIDA")
    assert len(user.user_id) == 21
    assert encode_response(made) == {
        "User": {
            "Path": "/",
            "UserName": "alice",
            "UserId": user.user_id,
            "Arn": USER.arn,
            "CreateDate": NOW,
        }
    }
    assert kms.service.perform(ROOT, GetUserRequest(user_name="alice")).user == user
    assert kms.service.perform(ROOT, ListUsersRequest()).users == [user]
    kms.service.perform(ROOT, DeleteUserRequest(user_name="alice"))
    assert kms.service.perform(ROOT, ListUsersRequest()).users == []
    again = kms.service.perform(ROOT, CreateUserRequest(user_name="alice")).user
    assert again.user_id != user.user_id


def test_a_user_works_with_keys(kms: MemoryKms, alice: Caller) -> None:
    request = EncryptRequest(key_id=kms.new_key(), plaintext=bytearray(1))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, request)
    put_policy(kms)
    kms.service.perform(alice, request)
    kms.service.perform(ROOT, DeleteUserPolicyRequest(user_name="alice", policy_name="own"))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(alice, request)


@pytest.mark.parametrize("name", ["alice", "ALICE", "Alice"])
def test_names_differ_in_more_than_case(kms: MemoryKms, alice: Caller, name: str) -> None:
    with pytest.raises(EntityExistsError) as raised:
        kms.service.perform(ROOT, CreateUserRequest(user_name=name))
    assert str(raised.value) == f"User with name {name} already exists."
    assert (raised.value.code, raised.value.http_status) == ("EntityAlreadyExists", 409)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a:b", "x" * 65, "*"])
def test_what_is_no_name(kms: MemoryKms, name: str) -> None:
    with pytest.raises(KmsValidationError, match="at 'userName' failed to satisfy constraint"):
        kms.service.perform(ROOT, CreateUserRequest(user_name=name))


def test_names_that_look_odd(kms: MemoryKms) -> None:
    for name in ("x" * 64, "a+b=c,d.e@f-g_h", "root"):
        user = kms.service.perform(ROOT, CreateUserRequest(user_name=name)).user
        assert user.arn == f"arn:aws:iam::{ACCOUNT}:user/{name}"
    assert not Caller(arn=f"arn:aws:iam::{ACCOUNT}:user/root", account=ACCOUNT).is_root


NOBODY: list[Request[Any]] = [
    GetUserRequest(user_name="alice"),
    DeleteUserRequest(user_name="alice"),
    PutUserPolicyRequest(user_name="alice", policy_name="p", policy_document=ENCRYPTS),
    GetUserPolicyRequest(user_name="alice", policy_name="p"),
    ListUserPoliciesRequest(user_name="alice"),
    DeleteUserPolicyRequest(user_name="alice", policy_name="p"),
    CreateAccessKeyRequest(user_name="alice"),
    ImportAccessKeyRequest(user_name="alice", access_key_id=EXAMPLE, secret_access_key=SECRET),
    ListAccessKeysRequest(user_name="alice"),
    UpdateAccessKeyRequest(user_name="alice", access_key_id=EXAMPLE, status="Inactive"),
    DeleteAccessKeyRequest(user_name="alice", access_key_id=EXAMPLE),
]


@pytest.mark.parametrize("request_", NOBODY)
def test_a_user_that_is_not_there(kms: MemoryKms, request_: Request[Any]) -> None:
    with pytest.raises(NoSuchEntityError) as raised:
        kms.service.perform(ROOT, request_)
    assert str(raised.value) == "The user with name alice cannot be found."
    assert (raised.value.code, raised.value.http_status) == ("NoSuchEntity", 404)


@pytest.mark.parametrize(
    "request_", [CreateUserRequest(user_name="bob"), ListUsersRequest(), *NOBODY]
)
def test_who_may(kms: MemoryKms, alice: Caller, request_: Request[Any]) -> None:
    action = "iam:" + type(request_).__name__.removesuffix("Request")
    with pytest.raises(PrincipalAccessDeniedError) as raised:
        kms.service.perform(alice, request_)
    assert f"is not authorized to perform: {action} on resource: arn:aws:iam::" in str(raised.value)
    assert str(raised.value).endswith(
        f"because no identity-based policy allows the {action} action"
    )
    assert (raised.value.code, raised.value.http_status) == ("AccessDenied", 403)
    with pytest.raises(PrincipalAccessDeniedError):
        kms.service.perform(STRANGER, request_)
    put_policy(kms, document([allow(Action="iam:*"), deny(Action=action)]))
    with pytest.raises(PrincipalAccessDeniedError, match="with an explicit deny in an identity"):
        kms.service.perform(alice, request_)


def test_a_policy_can_let_a_user_look_after_itself_and_nobody_else(
    kms: MemoryKms, alice: Caller
) -> None:
    own = "arn:aws:iam::*:user/${aws:username}"
    put_policy(kms, document([allow(Action="iam:*AccessKey*", Resource=own)]))
    kms.service.perform(ROOT, CreateUserRequest(user_name="bob"))
    made = kms.service.perform(alice, CreateAccessKeyRequest()).access_key
    assert made.user_name == "alice"
    listed = kms.service.perform(alice, ListAccessKeysRequest()).access_key_metadata
    assert [key.access_key_id for key in listed] == [made.access_key_id]
    kms.service.perform(alice, DeleteAccessKeyRequest(access_key_id=made.access_key_id))
    with pytest.raises(PrincipalAccessDeniedError):
        kms.service.perform(alice, CreateAccessKeyRequest(user_name="bob"))
    with pytest.raises(PrincipalAccessDeniedError):
        kms.service.perform(alice, GetUserRequest())
    bobs = new_key(kms, "bob").access_key_id
    with pytest.raises(NoSuchEntityError) as raised:
        kms.service.perform(alice, DeleteAccessKeyRequest(access_key_id=bobs))
    assert str(raised.value) == f"The Access Key with id {bobs} cannot be found."
    with pytest.raises(KmsValidationError):
        kms.service.perform(ROOT, CreateAccessKeyRequest())


def test_policies_of_users(kms: MemoryKms, alice: Caller) -> None:
    put_policy(kms, name="b")
    put_policy(kms, name="a")
    names = ListUserPoliciesRequest(user_name="alice")
    assert kms.service.perform(ROOT, names).policy_names == ["a", "b"]
    request = GetUserPolicyRequest(user_name="alice", policy_name="a")
    assert encode_response(kms.service.perform(ROOT, request)) == {
        "UserName": "alice",
        "PolicyName": "a",
        "PolicyDocument": msgspec.json.decode(ENCRYPTS),
    }
    requests: list[Request[Any]] = [
        GetUserPolicyRequest(user_name="alice", policy_name="c"),
        DeleteUserPolicyRequest(user_name="alice", policy_name="c"),
    ]
    for absent in requests:
        with pytest.raises(NoSuchEntityError) as raised:
            kms.service.perform(ROOT, absent)
        assert str(raised.value) == "The user policy with name c cannot be found."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "This policy contains invalid Json"),
        (document([allow("*")]), "Policy document should not specify a principal."),
        (document([allow(Action=[])]), "Policy statement must contain actions."),
        (
            document([allow(Sid="a"), allow(Sid="a")]),
            "Statement IDs (SID) in a single policy must be unique.",
        ),
    ],
)
def test_policies_that_are_refused(kms: MemoryKms, alice: Caller, text: str, message: str) -> None:
    with pytest.raises(MalformedIdentityPolicyError) as raised:
        put_policy(kms, text)
    assert str(raised.value) == message
    assert raised.value.code == "MalformedPolicyDocument"
    assert kms.service.perform(ROOT, ListUserPoliciesRequest(user_name="alice")).policy_names == []


def test_limits(kms: MemoryKms, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    put_policy(kms, ENCRYPTS + " " * (32_768 - len(ENCRYPTS)))
    with pytest.raises(PrincipalLimitError, match="Maximum policy size of 32768 bytes exceeded"):
        put_policy(kms, name="more")
    new_key(kms)
    new_key(kms)
    with pytest.raises(PrincipalLimitError) as raised:
        new_key(kms)
    assert str(raised.value) == "Cannot exceed quota for AccessKeysPerUser: 2"
    assert (raised.value.code, raised.value.http_status) == ("LimitExceeded", 409)
    monkeypatch.setattr(principal_operations, "MAX_USERS", 1)
    with pytest.raises(PrincipalLimitError, match="UsersPerAccount: 1"):
        kms.service.perform(ROOT, CreateUserRequest(user_name="bob"))


def test_only_a_bare_user_is_deleted(kms: MemoryKms, alice: Caller) -> None:
    put_policy(kms)
    id_ = new_key(kms).access_key_id
    delete = DeleteUserRequest(user_name="alice")
    with pytest.raises(DeleteConflictError) as raised:
        kms.service.perform(ROOT, delete)
    assert str(raised.value) == "Cannot delete entity, must delete access keys first."
    kms.service.perform(ROOT, DeleteAccessKeyRequest(user_name="alice", access_key_id=id_))
    with pytest.raises(DeleteConflictError, match="must delete policies first"):
        kms.service.perform(ROOT, delete)
    kms.service.perform(ROOT, DeleteUserPolicyRequest(user_name="alice", policy_name="own"))
    kms.service.perform(ROOT, delete)


def test_users_of_other_accounts_are_not_seen(kms: MemoryKms, alice: Caller) -> None:
    add_user(kms, "alice", account=AWAY)
    assert len(kms.service.perform(ROOT, ListUsersRequest()).users) == 1
    kms.service.perform(ROOT, DeleteUserRequest(user_name="alice"))
    with pytest.raises(NoSuchEntityError):
        kms.service.perform(ROOT, GetUserRequest(user_name="alice"))


def test_pages_of_users(kms: MemoryKms) -> None:
    for name in ("a", "b", "c"):
        kms.service.perform(ROOT, CreateUserRequest(user_name=name))
    first = call(kms.service, ROOT, "ListUsers", {"MaxItems": 2})
    assert ([user["UserName"] for user in first["Users"]], first["IsTruncated"]) == (
        ["a", "b"],
        True,
    )
    second = call(kms.service, ROOT, "ListUsers", {"Marker": first["Marker"]})
    assert ([user["UserName"] for user in second["Users"]], second["IsTruncated"]) == (["c"], False)
    assert "Marker" not in second


# ---------------------------------------------------------------- access keys


def test_an_access_key(kms: MemoryKms, alice: Caller) -> None:
    made = new_key(kms)
    assert made.access_key_id.startswith("AKIA")
    assert (len(made.access_key_id), len(made.secret_access_key)) == (20, 40)
    assert (made.user_name, made.status, made.create_date) == ("alice", "Active", NOW)
    key = found(kms, made.access_key_id)
    assert kms.service.open_secret(key).decode() == made.secret_access_key
    assert key.is_active
    assert signing(key, "192.0.2.1") == Caller(
        arn=USER.arn,
        account=ACCOUNT,
        source_address="192.0.2.1",
        user_agent="x",
        access_key_id=made.access_key_id,
    )
    request = ListAccessKeysRequest(user_name="alice")
    assert kms.service.perform(ROOT, request).access_key_metadata == [
        AccessKeyMetadata(user_name="alice", access_key_id=key.id, status="Active", create_date=NOW)
    ]
    assert kms.service.find_access_key("AKIANONE") is None


def test_the_secret_is_nowhere_else(kms: MemoryKms, alice: Caller) -> None:
    made = new_key(kms)
    request = ImportAccessKeyRequest(
        user_name="alice", access_key_id=EXAMPLE, secret_access_key=SECRET
    )
    imported = kms.service.perform(ROOT, request)
    secrets = (made.secret_access_key, SECRET)
    shown = [repr(value) for value in (made, request, imported, found(kms, EXAMPLE))]
    for secret in secrets:
        assert not any(secret in text for text in shown)
        for path in kms.directory.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes()
    (record,) = [r for r in kms.records() if r.event_name == "CreateAccessKey"]
    assert record.event_source == "iam.amazonaws.com"
    assert record.response_elements == {
        "accessKey": {
            "accessKeyId": made.access_key_id,
            "userName": "alice",
            "status": "Active",
        }
    }
    too_long = ImportAccessKeyRequest(
        user_name="alice", access_key_id=EXAMPLE, secret_access_key=SECRET * 4
    )
    with pytest.raises(KmsValidationError) as raised:
        kms.service.perform(ROOT, too_long)
    assert SECRET not in str(raised.value)


def test_a_secret_opens_for_its_own_id_only(kms: MemoryKms, alice: Caller) -> None:
    one, two = found(kms, new_key(kms).access_key_id), found(kms, new_key(kms).access_key_id)
    with pytest.raises(IntegrityError):
        kms.service.open_secret(replace(one, id=two.id))


def test_an_access_key_of_elsewhere(kms: MemoryKms, alice: Caller) -> None:
    request = ImportAccessKeyRequest(
        user_name="alice", access_key_id=EXAMPLE, secret_access_key=SECRET
    )
    response = encode_response(kms.service.perform(ROOT, request))
    assert response["AccessKey"]["AccessKeyId"] == EXAMPLE
    assert "SecretAccessKey" not in response["AccessKey"]
    assert kms.service.open_secret(found(kms, EXAMPLE)).decode() == SECRET
    kms.service.perform(ROOT, CreateUserRequest(user_name="bob"))
    taken = ImportAccessKeyRequest(
        user_name="bob", access_key_id=EXAMPLE, secret_access_key=SECRET[::-1]
    )
    with pytest.raises(EntityExistsError):
        kms.service.perform(ROOT, taken)
    assert found(kms, EXAMPLE).principal == USER.arn


def test_switching_an_access_key_off(kms: MemoryKms, alice: Caller) -> None:
    id_ = new_key(kms).access_key_id
    for status, active in (("Inactive", False), ("Active", True)):
        request = UpdateAccessKeyRequest(user_name="alice", access_key_id=id_, status=status)
        kms.service.perform(ROOT, request)
        assert found(kms, id_).is_active is active
    with pytest.raises(KmsValidationError, match="enum value set"):
        kms.service.perform(
            ROOT, UpdateAccessKeyRequest(user_name="alice", access_key_id=id_, status="Expired")
        )
    kms.service.perform(ROOT, DeleteAccessKeyRequest(user_name="alice", access_key_id=id_))
    assert kms.service.find_access_key(id_) is None


def test_access_keys_of_the_volume_service_are_the_roots_to_give(
    kms: MemoryKms, alice: Caller
) -> None:
    kms.service.perform(ROOT, DescribeKeyRequest(key_id="alias/aws/ebs"))
    encrypt = EncryptRequest(key_id="alias/aws/ebs", plaintext=bytearray(1))
    put_policy(kms, document([allow(Action=["iam:*", "kms:*"])]))
    with pytest.raises(PrincipalAccessDeniedError):
        kms.service.perform(alice, CreateAccessKeyRequest(for_volumes=True))
    plain = found(kms, new_key(kms).access_key_id)
    for_volumes = found(kms, new_key(kms, for_volumes=True).access_key_id)
    with pytest.raises(AccessDeniedError):
        kms.service.perform(signing(plain, "::1"), encrypt)
    kms.service.perform(signing(for_volumes, "::1"), encrypt)


def test_the_kms_protocol_does_not_reach_principals(kms: MemoryKms) -> None:
    with pytest.raises(UnknownOperationError):
        kms.service.call(ROOT, "CreateUser", {"UserName": "alice"})
    assert kms.service.perform(ROOT, ListUsersRequest()).users == []


def test_a_dead_hsm_makes_no_access_key(kms: MemoryKms, alice: Caller) -> None:
    kms.keystore.is_dead = True
    with pytest.raises(KmsError):
        new_key(kms)
    kms.keystore.is_dead = False
    request = ListAccessKeysRequest(user_name="alice")
    assert kms.service.perform(ROOT, request).access_key_metadata == []
