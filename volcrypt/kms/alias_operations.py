"""Operations on aliases. They need the permission on the alias and on each key concerned."""

from dataclasses import replace
from typing import Final

from volcrypt.errors import (
    AlreadyExistsError,
    InvalidAliasNameError,
    KeyNotFoundError,
    KmsValidationError,
    LimitExceededError,
    NotAuthorizedError,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.keyring import (
    ALIASES,
    alias_id,
    decode_alias,
    get_alias,
    get_key,
    key_item_id,
    put_alias,
)
from volcrypt.kms.messages.aliases import (
    AliasListEntry,
    CreateAliasRequest,
    DeleteAliasRequest,
    ListAliasesRequest,
    ListAliasesResponse,
    UpdateAliasRequest,
)
from volcrypt.kms.messages.base import EmptyResponse
from volcrypt.kms.model import Alias, KmsKey, alias_arn
from volcrypt.kms.scope import Scope

MAX_ALIASES_PER_KEY: Final = 50
_PREFIX: Final = "alias/"
_RESERVED: Final = ("alias/aws/", "alias/volcrypt/")


class AliasOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def create_alias(self, attempt: Attempt, request: CreateAliasRequest) -> Effect[EmptyResponse]:
        name = _check_name(request.alias_name)
        arn = alias_arn(self._account, self._region, name)
        attempt.authorise_account("CreateAlias", resource=arn)
        key = self._target(attempt, request.target_key_id)
        if self._alias(attempt, name) is not None:
            raise AlreadyExistsError(f"An alias with the name {arn} already exists")
        self._check_alias_count(attempt, key)
        now = self._clock()
        alias = Alias(
            name=name,
            account=self._account,
            region=self._region,
            key_id=key.key_id,
            created_at=now,
            updated_at=now,
        )
        return Effect(change=lambda change: put_alias(change, alias), act=EmptyResponse)

    def update_alias(self, attempt: Attempt, request: UpdateAliasRequest) -> Effect[EmptyResponse]:
        alias = self._existing(attempt, _check_name(request.alias_name))
        attempt.authorise_account("UpdateAlias", resource=alias.arn)
        self._authorise_old_target(attempt, alias)
        key = self._target(attempt, request.target_key_id)
        if key.key_id != alias.key_id:
            self._check_alias_count(attempt, key)
        changed = replace(alias, key_id=key.key_id, updated_at=self._clock())
        return Effect(change=lambda change: put_alias(change, changed), act=EmptyResponse)

    def delete_alias(self, attempt: Attempt, request: DeleteAliasRequest) -> Effect[EmptyResponse]:
        alias = self._existing(attempt, _check_name(request.alias_name))
        attempt.authorise_account("DeleteAlias", resource=alias.arn)
        self._authorise_old_target(attempt, alias)
        id_ = alias_id(alias.name, account=alias.account, region=alias.region)
        return Effect(change=lambda change: change.delete(ALIASES, id_), act=EmptyResponse)

    def list_aliases(
        self, attempt: Attempt, request: ListAliasesRequest
    ) -> Effect[ListAliasesResponse]:
        attempt.authorise_account("ListAliases")
        owner = None
        if request.key_id is not None:
            key = self._find_key(attempt, request.key_id)
            attempt.concern(key)
            owner = key_item_id(key)
        items, marker = self._page(attempt.change, ALIASES, request, owner=owner)
        response = ListAliasesResponse(
            aliases=[_entry(decode_alias(item)) for item in items],
            truncated=marker is not None,
            next_marker=marker,
        )
        return Effect(act=lambda: response)

    def _alias(self, attempt: Attempt, name: str) -> Alias | None:
        return get_alias(attempt.change, name, account=self._account, region=self._region)

    def _existing(self, attempt: Attempt, name: str) -> Alias:
        alias = self._alias(attempt, name)
        if alias is None:
            arn = alias_arn(self._account, self._region, name)
            raise KeyNotFoundError(f"Alias {arn} is not found.")
        return alias

    def _target(self, attempt: Attempt, text: str) -> KmsKey:
        if text.startswith(_PREFIX):
            raise KmsValidationError("Aliases must refer to keys. Not aliases")
        key = self._find_key(attempt, text)
        attempt.authorise(key, attempt.operation)
        attempt.check_state(key)
        return key

    def _authorise_old_target(self, attempt: Attempt, alias: Alias) -> None:
        key = get_key(attempt.change, alias.key_id)
        if key is not None:
            attempt.authorise(key, attempt.operation)

    def _check_alias_count(self, attempt: Attempt, key: KmsKey) -> None:
        count = attempt.change.count(ALIASES, owner=key_item_id(key))
        if count >= MAX_ALIASES_PER_KEY:
            raise LimitExceededError(
                f"Aliases per key quota for this account in this region is {MAX_ALIASES_PER_KEY}, "
                f"current usage is {count}."
            )


def _check_name(name: str) -> str:
    """Raises KmsValidationError, InvalidAliasNameError, NotAuthorizedError."""
    if not name.startswith(_PREFIX):
        raise KmsValidationError(
            'Alias must start with the prefix "alias/". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if name == _PREFIX:
        raise InvalidAliasNameError("an alias needs a name behind alias/")
    if name.startswith(_RESERVED):
        raise NotAuthorizedError("names under alias/aws/ and alias/volcrypt/ are reserved")
    if ":" in name:
        raise KmsValidationError(f"{name} contains invalid characters for an alias")
    return name


def _entry(alias: Alias) -> AliasListEntry:
    return AliasListEntry(
        alias_name=alias.name,
        alias_arn=alias.arn,
        target_key_id=alias.key_id,
        creation_date=alias.created_at,
        last_updated_date=alias.updated_at,
    )
