"""Operations on aliases."""

import pytest

from tests.fakes.kms import ACCOUNT, REGION, ROOT, USER, MemoryKms
from tests.kms.people import add_user
from tests.kms.policies import allow
from volcrypt.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidAliasNameError,
    InvalidArnError,
    KeyNotFoundError,
    KmsError,
    KmsValidationError,
    LimitExceededError,
    NotAuthorizedError,
)
from volcrypt.kms.messages.aliases import (
    CreateAliasRequest,
    DeleteAliasRequest,
    ListAliasesRequest,
    UpdateAliasRequest,
)
from volcrypt.kms.messages.keys import DescribeKeyRequest


def create(kms: MemoryKms, name: str, target: str) -> None:
    kms.service.perform(ROOT, CreateAliasRequest(alias_name=name, target_key_id=target))


def update(kms: MemoryKms, name: str, target: str) -> None:
    kms.service.perform(ROOT, UpdateAliasRequest(alias_name=name, target_key_id=target))


def target(kms: MemoryKms, name: str) -> str:
    request = DescribeKeyRequest(key_id=name)
    return kms.service.perform(ROOT, request).key_metadata.key_id


def names(kms: MemoryKms, key_id: str | None = None) -> list[str]:
    listed = kms.service.perform(ROOT, ListAliasesRequest(key_id=key_id))
    return [alias.alias_name for alias in listed.aliases]


def test_an_alias_names_its_key(kms: MemoryKms) -> None:
    one, other = kms.new_key(), kms.new_key()
    create(kms, "alias/x", one)
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/x"
    assert target(kms, "alias/x") == target(kms, arn) == one
    update(kms, "alias/x", other)
    assert target(kms, "alias/x") == other
    kms.service.perform(ROOT, DeleteAliasRequest(alias_name="alias/x"))
    with pytest.raises(KeyNotFoundError):
        target(kms, "alias/x")
    for request in (DeleteAliasRequest(alias_name="alias/x"),):
        with pytest.raises(KeyNotFoundError, match="is not found"):
            kms.service.perform(ROOT, request)
    with pytest.raises(KeyNotFoundError, match="is not found"):
        update(kms, "alias/x", one)


def test_listing(kms: MemoryKms) -> None:
    one, other = kms.new_key(), kms.new_key()
    for name in ("alias/c", "alias/a"):
        create(kms, name, one)
    create(kms, "alias/b", other)
    assert names(kms) == ["alias/a", "alias/b", "alias/c"]
    assert names(kms, one) == ["alias/a", "alias/c"]
    page = kms.service.perform(ROOT, ListAliasesRequest(limit=2))
    assert page.truncated
    rest = kms.service.perform(ROOT, ListAliasesRequest(marker=page.next_marker))
    assert [alias.alias_name for alias in rest.aliases] == ["alias/c"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("x", KmsValidationError),
        ("alias/", InvalidAliasNameError),
        ("alias/a b", KmsValidationError),
        ("alias/a:b", KmsValidationError),
        ("alias/aws/x", NotAuthorizedError),
        ("alias/volcrypt/ebs", NotAuthorizedError),
        ("alias/" + "x" * 251, KmsValidationError),
    ],
)
def test_names_that_are_refused(kms: MemoryKms, name: str, error: type[KmsError]) -> None:
    key_id = kms.new_key()
    with pytest.raises(error):
        create(kms, name, key_id)
    with pytest.raises(error):
        kms.service.perform(ROOT, DeleteAliasRequest(alias_name=name))
    assert names(kms) == []


def test_a_name_is_given_once(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    create(kms, "alias/x", key_id)
    with pytest.raises(AlreadyExistsError) as raised:
        create(kms, "alias/x", key_id)
    assert str(raised.value) == (
        f"An alias with the name arn:aws:kms:{REGION}:{ACCOUNT}:alias/x already exists"
    )


def test_an_alias_of_an_alias_is_refused(kms: MemoryKms) -> None:
    create(kms, "alias/x", kms.new_key())
    with pytest.raises(KmsValidationError, match="Aliases must refer to keys"):
        create(kms, "alias/y", "alias/x")


def test_a_key_has_at_most_50_aliases(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for number in range(50):
        create(kms, f"alias/{number}", key_id)
    with pytest.raises(LimitExceededError):
        create(kms, "alias/more", key_id)
    create(kms, "alias/other", kms.new_key())
    with pytest.raises(LimitExceededError):
        update(kms, "alias/other", key_id)
    update(kms, "alias/0", key_id)


def test_texts_of_refusals(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    for name, text in (
        (
            "x",
            (
                'Alias must start with the prefix "alias/". Please see '
                "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
            ),
        ),
        ("alias/a:b", "alias/a:b contains invalid characters for an alias"),
        (
            "alias/a!",
            (
                "1 validation error detected: Value 'alias/a!' at 'aliasName' failed to satisfy "
                "constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
            ),
        ),
    ):
        with pytest.raises(KmsValidationError) as raised:
            create(kms, name, key_id)
        assert str(raised.value) == text
    for number in range(50):
        create(kms, f"alias/{number}", key_id)
    with pytest.raises(LimitExceededError) as exceeded:
        create(kms, "alias/more", key_id)
    assert str(exceeded.value) == (
        "Aliases per key quota for this account in this region is 50, current usage is 50."
    )


def test_the_target_is_named_by_id_or_arn(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"
    create(kms, "alias/x_/", arn)
    update(kms, "alias/x_/", arn)
    assert target(kms, "alias/x_/") == key_id
    with pytest.raises(InvalidArnError, match="Key Aliases are not supported"):
        create(kms, "alias/y", f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/x_/")


def test_others_may_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    with pytest.raises(AccessDeniedError):
        kms.service.perform(USER, CreateAliasRequest(alias_name="alias/x", target_key_id=key_id))
    with pytest.raises(AccessDeniedError):
        kms.service.perform(USER, ListAliasesRequest())


def test_the_default_key_takes_no_other_alias(kms: MemoryKms) -> None:
    managed = target(kms, "alias/aws/ebs")
    with pytest.raises(AccessDeniedError):
        create(kms, "alias/x", managed)
    assert names(kms) == ["alias/aws/ebs", "alias/volcrypt/ebs"]


def test_who_moves_an_alias_may_do_so_with_both_keys(kms: MemoryKms) -> None:
    first, second = kms.new_key(), kms.new_key()
    kms.service.perform(ROOT, CreateAliasRequest(alias_name="alias/a", target_key_id=first))
    alias = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/a"
    keys = [f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{each}" for each in (first, second)]
    move = UpdateAliasRequest(alias_name="alias/a", target_key_id=second)
    actions = ["kms:UpdateAlias", "kms:DeleteAlias"]
    for name, resource in (("new", keys[1]), ("old", keys[0])):
        user = add_user(kms, name, [allow(Action=actions, Resource=[alias, resource])])
        with pytest.raises(AccessDeniedError):
            kms.service.perform(user, move)
    stranger = add_user(kms, "neither", [allow(Action=actions, Resource=alias)])
    with pytest.raises(AccessDeniedError):
        kms.service.perform(stranger, DeleteAliasRequest(alias_name="alias/a"))
    both = add_user(kms, "both", [allow(Action=actions, Resource=[alias, *keys])])
    kms.service.perform(both, move)
    kms.service.perform(both, DeleteAliasRequest(alias_name="alias/a"))
