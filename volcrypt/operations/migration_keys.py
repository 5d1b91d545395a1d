"""The new data key of a migration: under which key it is wished, and whether that can be used."""

from collections.abc import Iterator
from contextlib import contextmanager

from volcrypt.errors import AccessDeniedError, InvalidArgumentError, KmsError
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    is_under_customer_key,
    resolve_key,
    try_key,
    unwrap_key,
    volume_context,
)


def check_same_wishes(
    home: Home, migration: Migration, volume: str, choice: KeyChoice | None
) -> None:
    """Raises InvalidArgumentError when what is unfinished was begun under another key."""
    if migration.step in (MigrationStep.COPY, MigrationStep.VERIFY) and is_under_customer_key(
        migration.target_key
    ):
        check_source_key(
            home,
            migration.target_key,
            f"the unfinished {migration.called} of {volume}",
            choice=choice,
        )
    arn = migration.target_key.kms_key_arn
    if choice is None or (choice.kms_key is None and choice.customer_key is None):
        return
    if (choice.kms_key is not None and resolve_key(home, choice.kms_key) != arn) or (
        choice.customer_key is not None and arn is not None
    ):
        raise InvalidArgumentError(
            f"the unfinished {migration.called} of {volume} was begun under "
            f"{arn or 'a customer-provided key'}",
            hint=f"'volcrypt encrypt {volume} --resume' finishes it, --abort gives it up",
        )


def _wished(record: VolumeRecord, choice: KeyChoice | None) -> KeyChoice:
    return choice or KeyChoice(kms_key=_own_key(record))


def new_key(home: Home, record: VolumeRecord, choice: KeyChoice | None) -> WrappedDataKey:
    """The target's data key, which the caller may decrypt. Raises KmsError."""
    with _other_key_helps(record, choice):
        wrapped = choose_key(home, _wished(record, choice), volume_context(record.volume_id))
        assert wrapped is not None, "internal error: an encryption without a key"
        unwrap_key(home, wrapped).wipe()
        return wrapped


@contextmanager
def _other_key_helps(record: VolumeRecord, choice: KeyChoice | None) -> Iterator[None]:
    """A KMS key that is lost can be replaced."""
    try:
        yield
    except KmsError as error:
        if choice is None and not isinstance(error, AccessDeniedError):
            name = record.name or record.volume_id
            error.hint = f"'volcrypt rekey {name} --kms-key-id K' puts it under another key"
        raise


def try_new_key(home: Home, record: VolumeRecord, choice: KeyChoice | None) -> None:
    """Raises what `new_key` would, as far as that can be had without a data key."""
    with _other_key_helps(record, choice):
        try_key(home, _wished(record, choice), volume_context(record.volume_id))


def _own_key(record: VolumeRecord) -> str:
    wrapped = record.wrapped_key
    if wrapped is None or wrapped.kms_key_arn is None:
        raise InvalidArgumentError(
            f"volume {record.name or record.volume_id} is under a customer-provided key",
            hint="--kms-key-id says under which KMS key it is to be",
        )
    return wrapped.kms_key_arn


def key_name(
    home: Home, record: VolumeRecord, choice: KeyChoice | None, migration: Migration | None
) -> str | None:
    """What the plan calls the key; None for a customer-provided one."""
    if migration is not None:
        return migration.target_key.kms_key_arn
    if choice is None:
        return _own_key(record)
    return None if choice.customer_key is not None else choice.kms_key or home.default_kms_key
