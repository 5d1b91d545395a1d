"""Data keys of volumes and snapshots: every use that the operations make of a KMS key.

    command                           KMS operations                      encryption context
    volume create                     GenerateDataKeyWithoutPlaintext     volume id
    volume import                     the same, Decrypt, Decrypt          volume id
    volume create --snapshot-id:
        under the same KMS key        ReEncrypt                           snapshot's to volume id
        under another                 GenerateDataKeyWithoutPlaintext,    volume id
                                      Decrypt of both                     each its own
    volume create --data, and          the same, Decrypt                   volume id
        volume grow of such a volume  Decrypt                             the wrapped key's
    volume register                   DescribeKey, Decrypt                volume id
                                      Decrypt (DryRun) of the other       the snapshot's
        and when it is opened, while
        chunks are to be fetched      Decrypt of the other                the snapshot's
    mount SNAPSHOT                    Decrypt                             the snapshot's
    volume export, volume check       Decrypt                             the wrapped key's
    mount, attach                     Decrypt (DryRun), CreateGrant,      the wrapped key's
                                      Decrypt by the host
      --on-key-loss fence             Decrypt (DryRun) by the host,       the wrapped key's
                                      again and again
    unmount, detach                   RetireGrant by the host
    status                            DescribeKey of each volume's key
    report encryption, report key     DescribeKey of each key; rotations
                                      and aliases, not for volumes
    settings set default-kms-key      DescribeKey,                        volume id of zeros
                                      GenerateDataKeyWithoutPlaintext
                                      (DryRun)
    snapshot copy:                    DescribeKey, and
        under the same KMS key        ReEncrypt                           source's to snapshot id
        under another                 GenerateDataKeyWithoutPlaintext,    new snapshot id
                                      Decrypt of both                     each its own
        another, where an earlier     ReEncrypt,                          that copy's to snapshot id
        copy is continued             Decrypt of both                     each its own
    volume export-header              Decrypt                             the volume's
    encrypt --online, rekey           GenerateDataKeyWithoutPlaintext,    volume id
                                      Decrypt of that, three times;
                                      as mount, for the new key
    encrypt                           GenerateDataKeyWithoutPlaintext,    new snapshot id
                                      ReEncrypt,                          that to new volume id
                                      Decrypt of both                     each its own

All of them are asked by the volume service (`kms:ViaService`) on behalf of the principal of the
profile, so that the service-managed default key serves volumes and nothing else; those of the host
by the host (`mount_grants`). Commands that are not here ask for no key: taking, listing, verifying
and deleting snapshots moves ciphertext, and what they seal or sign is under the home's own keys.

The data key of an unencrypted volume is none, and its commands ask for nothing. Nor do those of a
volume under a customer-provided key: whoever has that key gives it to each command that reads or
re-encrypts plaintext (`Home.customer_keys`), and it is kept nowhere.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeGuard

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.data_key import DATA_KEY_BYTES, DataKey
from volcrypt.errors import (
    AccessDeniedError,
    CustomerKeyMissingError,
    DryRunSucceededError,
    IntegrityError,
    InvalidArgumentError,
    InvalidStateError,
    KeyGoneError,
    KeyNotFoundError,
    WrongCustomerKeyError,
)
from volcrypt.formats.volume_record import KeySource, WrappedDataKey, key_source_of
from volcrypt.kms.messages.data import (
    DecryptRequest,
    DecryptResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.names import DataKeyId, SnapshotId, VolumeId, make_data_key_id
from volcrypt.operations.home import Home


def volume_context(volume_id: VolumeId) -> dict[str, str]:
    return {"volcrypt:volume-id": volume_id}


def snapshot_context(snapshot_id: SnapshotId) -> dict[str, str]:
    return {"volcrypt:snapshot-id": snapshot_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChoice:
    """What the KEY OPTIONS of a command ask for: encrypted under `customer_key`, else under
    `kms_key` (the account's default key when None), or not encrypted."""

    encrypted: bool = True
    kms_key: str | None = None
    customer_key: CustomerKey | None = None

    def is_customer_key_of(self, wrapped: WrappedDataKey | None) -> bool:
        """Whether it names the very customer-provided key that a data key is under."""
        return (
            self.customer_key is not None
            and is_under_customer_key(wrapped)
            and self.customer_key.opens(wrapped.ciphertext)
        )


def is_under_customer_key(wrapped: WrappedDataKey | None) -> TypeGuard[WrappedDataKey]:
    return key_source_of(wrapped) is KeySource.CUSTOMER


def resolve_key(home: Home, kms_key: str | None) -> str:
    """The ARN of the key that an id, ARN or alias names; the default key's when None."""
    with explaining_denial(home, "DescribeKey", kms_key):
        response = home.kms.perform(
            home.volume_service, DescribeKeyRequest(key_id=kms_key or home.default_kms_key)
        )
    return response.key_metadata.arn


def generate_key(home: Home, kms_key: str | None, context: dict[str, str]) -> WrappedDataKey:
    """A new data key under `kms_key` (the account's default key when None), born wrapped: its
    plaintext is not in this process. Raises KmsError."""
    with explaining_denial(home, "GenerateDataKeyWithoutPlaintext", kms_key):
        response = home.kms.perform(
            home.volume_service,
            GenerateDataKeyWithoutPlaintextRequest(
                key_id=kms_key or home.default_kms_key,
                number_of_bytes=DATA_KEY_BYTES,
                encryption_context=context,
            ),
        )
    return WrappedDataKey(
        data_key_id=make_data_key_id(home.random_id_bytes()),
        ciphertext=response.ciphertext_blob,
        kms_key_arn=response.key_id,
        encryption_context=context,
    )


def choose_key(
    home: Home, choice: KeyChoice, context: dict[str, str], *, region: str | None = None
) -> WrappedDataKey | None:
    """The wrapped data key that a choice asks for, for something new in a region, that of the
    home's volumes when None; None for no encryption. Raises as `check_encryption`, and KmsError."""
    check_encryption(home, choice, region=region)
    if choice.customer_key is not None:
        return _wrap_new_key(home, choice.customer_key)
    return generate_key(home, choice.kms_key, context) if choice.encrypted else None


def try_key(home: Home, choice: KeyChoice, context: dict[str, str]) -> None:
    """Raises what `choose_key`, and then the use of what it gave, would raise; makes nothing."""
    check_encryption(home, choice)
    if choice.customer_key is not None or not choice.encrypted:
        return
    key = choice.kms_key or home.default_kms_key
    with (
        explaining_denial(home, "GenerateDataKeyWithoutPlaintext", key),
        suppress(DryRunSucceededError),
    ):
        # A KMS that does not know DryRun answers in earnest.
        home.kms.perform(
            home.volume_service,
            GenerateDataKeyWithoutPlaintextRequest(
                key_id=key,
                number_of_bytes=DATA_KEY_BYTES,
                encryption_context=context,
                dry_run=True,
            ),
        )


def default_choice(home: Home) -> KeyChoice | None:
    """What is chosen for a volume that nothing is said of and whose source is not encrypted."""
    return KeyChoice() if home.volume_settings(home.region).encryption_by_default else None


def check_encryption(home: Home, choice: KeyChoice, *, region: str | None = None) -> None:
    """Raises InvalidArgumentError when a choice wants something new in a region, that of the
    home's volumes when None, not to be encrypted where encryption by default is on."""
    if not choice.encrypted and home.volume_settings(region).encryption_by_default:
        raise InvalidArgumentError(
            f"encryption by default is on in account {home.caller.account} and region "
            f"{region or home.region}: nothing unencrypted is made",
            hint="leave --unencrypted out; 'volcrypt settings get' shows which key is used then",
        )


def _wrap_new_key(home: Home, customer_key: CustomerKey) -> WrappedDataKey:
    forbid_dumps()
    lock_memory()
    with DataKey(bytearray(secrets.token_bytes(DATA_KEY_BYTES))) as data_key:
        return WrappedDataKey(
            data_key_id=make_data_key_id(home.random_id_bytes()),
            ciphertext=customer_key.wrap(data_key),
            kms_key_arn=None,
            encryption_context={},
        )


def check_source_key(
    home: Home, wrapped: WrappedDataKey | None, what: str, *, choice: KeyChoice | None = None
) -> None:
    """Find out early whether what was given opens the data key of `what`, as far as that takes no
    KMS; `choice` is what is asked for something that is made of it.

    Raises CustomerKeyMissingError, WrongCustomerKeyError; InvalidArgumentError when a key was given
    that nothing needs.
    """
    if is_under_customer_key(wrapped):
        try:
            unwrap_key(home, wrapped).wipe()
        except (CustomerKeyMissingError, WrongCustomerKeyError) as error:
            raise type(error)(f"{what}: {error}", hint=error.hint) from None
    elif any(choice is None or key is not choice.customer_key for key in home.customer_keys):
        raise InvalidArgumentError(f"{what} is not under a customer-provided key")


def data_key_id(wrapped_key: WrappedDataKey | None) -> DataKeyId | None:
    """Which data key it is; None for no encryption."""
    return wrapped_key.data_key_id if wrapped_key is not None else None


def unwrap_key(home: Home, wrapped: WrappedDataKey) -> DataKey:
    """The plaintext data key; the caller wipes it. From here on this process is not dumped and its
    memory not swapped. Raises KmsError, with the KMS's reason; WrongCustomerKeyError and
    CustomerKeyMissingError.
    """
    forbid_dumps()
    lock_memory()
    if is_under_customer_key(wrapped):
        return _unwrap_by_customer_key(home, wrapped)
    with using_key_of(home, "Decrypt", wrapped):
        response = home.kms.perform(
            home.volume_service,
            DecryptRequest(
                key_id=wrapped.kms_key_arn,
                ciphertext_blob=wrapped.ciphertext,
                encryption_context=wrapped.encryption_context,
            ),
        )
    return make_data_key(response)


def _unwrap_by_customer_key(home: Home, wrapped: WrappedDataKey) -> DataKey:
    """By any of the keys that were given to this command."""
    for key in home.customer_keys:
        with suppress(WrongCustomerKeyError):
            return key.unwrap(wrapped.ciphertext)
    if home.customer_keys:
        raise WrongCustomerKeyError(
            f"data key {wrapped.data_key_id} is under another customer-provided key"
        )
    raise CustomerKeyMissingError(
        f"data key {wrapped.data_key_id} is under a customer-provided key, and none was given"
    )


def make_data_key(response: DecryptResponse) -> DataKey:
    """The data key that the KMS decrypted. Raises IntegrityError for what is none."""
    try:
        return DataKey(response.plaintext)
    except ValueError as error:
        raise IntegrityError(f"the KMS returned an unusable data key: {error}") from error


@contextmanager
def explaining_denial(home: Home, action: str, key: str | None) -> Iterator[None]:
    """A refusal by the KMS in the block says who needs what, or what helps, beside the KMS's own
    reason."""
    try:
        yield
    except AccessDeniedError as error:
        named = key or home.default_kms_key
        who = home.caller.arn if home.access.other_kms is None else "whoever runs this"
        error.hint = (
            f"{who} needs kms:{action} on {named}; "
            f"'volcrypt kms get-key-policy --key-id {named}' shows who has it"
        )
        raise
    except InvalidStateError as error:
        if error.hint is None and "pending deletion" in str(error):
            error.hint = (
                f"'volcrypt kms cancel-key-deletion --key-id {key or home.default_kms_key}', and "
                "then 'kms enable-key', bring it back"
            )
        raise


@contextmanager
def using_key_of(home: Home, action: str, wrapped: WrappedDataKey) -> Iterator[None]:
    """The same, of the KMS key that a data key is under. Raises KeyGoneError when it is not there:
    what it is needed for was found, so this is a key that cannot be used."""
    try:
        with explaining_denial(home, action, wrapped.kms_key_arn):
            yield
    except KeyNotFoundError as error:
        raise KeyGoneError(wrapped.kms_key_arn or "") from error


def rebind_key(home: Home, wrapped: WrappedDataKey, context: dict[str, str]) -> WrappedDataKey:
    """The same data key under the same KMS key, bound to another object; no plaintext leaves the
    KMS. One under a customer-provided key is bound to nothing, and only tried.

    Raises KmsError, WrongCustomerKeyError, CustomerKeyMissingError.
    """
    if is_under_customer_key(wrapped):
        unwrap_key(home, wrapped).wipe()
        return wrapped
    assert wrapped.kms_key_arn is not None, "internal error: a data key under no key"
    with using_key_of(home, "ReEncryptFrom and kms:ReEncryptTo", wrapped):
        response = home.kms.perform(
            home.volume_service,
            ReEncryptRequest(
                ciphertext_blob=wrapped.ciphertext,
                source_key_id=wrapped.kms_key_arn,
                source_encryption_context=wrapped.encryption_context,
                destination_key_id=wrapped.kms_key_arn,
                destination_encryption_context=context,
            ),
        )
    return WrappedDataKey(
        data_key_id=wrapped.data_key_id,
        ciphertext=response.ciphertext_blob,
        kms_key_arn=wrapped.kms_key_arn,
        encryption_context=context,
    )
