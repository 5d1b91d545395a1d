"""`report key`: what a KMS key is needed for, and what it was used for.

The first follows from records and stores (`key_use`), the second from the audit log, which is read
once, as a stream, and believed only when it holds to its sealed end. A key that is deleted is known
by both: by its id or ARN, or by an alias that the log saw it under.
"""

from dataclasses import dataclass

from volcrypt.errors import AccessDeniedError, KeyNotFoundError
from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.messages.keys import DescribeKeyRequest
from volcrypt.kms.model import key_arn
from volcrypt.kms.reference import is_key_id
from volcrypt.kms.usage import KeyUsage, UsageReader
from volcrypt.operations.audit import verified_records
from volcrypt.operations.home import Home
from volcrypt.operations.inventory import take_inventory
from volcrypt.operations.key_facts import KeyFacts, key_facts, kms_of
from volcrypt.operations.key_states import NOT_FOUND
from volcrypt.operations.key_use import Dependent, dependents_of
from volcrypt.operations.volume_settings import view_settings

_ALIAS_EVENTS = frozenset({"CreateAlias", "UpdateAlias"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """`usage` is None for a key of another KMS: its uses are on record there. `unread` are stores
    that did not answer, `unreadable` what is there and cannot be read, and why; either may hide
    more that needs the key."""

    key_arn: str
    facts: KeyFacts
    is_default: bool
    dependents: list[Dependent]
    usage: KeyUsage | None
    unread: dict[str, str]
    unreadable: dict[str, str]


def report_key(home: Home, key: str) -> KeyReport:
    """Everything about the key that an id, ARN or alias names.

    Raises KeyNotFoundError for one that neither KMS, records nor log know; AccessDeniedError for an
    alias of a key that the caller may not describe; AuditChainError.
    """
    arn = _find(home, key)
    inventory = take_inventory(home)
    dependents = list(dependents_of(inventory, arn))
    facts = key_facts(home, arn)
    usage = None
    if home.access.other_kms is None:
        usage = read_usage(home, arn)
    if facts.state == NOT_FOUND and not dependents and (usage is None or not usage.is_known):
        raise KeyNotFoundError(
            f"key {key} is not known to the KMS, to any volume or snapshot, nor to the audit log"
        )
    return KeyReport(
        key_arn=arn,
        facts=facts,
        is_default=view_settings(home).default_kms_key in (arn, *facts.aliases),
        dependents=dependents,
        usage=usage,
        unread=inventory.unread,
        unreadable=inventory.unreadable,
    )


def read_usage(home: Home, arn: str) -> KeyUsage:
    """From the audit log of the home. Raises AuditChainError, FormatError."""
    reader = UsageReader(arn)
    for record in verified_records(home):
        reader.read(record)
    return reader.usage


def _find(home: Home, key: str) -> str:
    """The ARN of a key that is there, or was."""
    try:
        request = DescribeKeyRequest(key_id=key)
        return kms_of(home, key).perform(home.caller, request).key_metadata.arn
    except AccessDeniedError:
        if "alias/" in key:
            raise
    except KeyNotFoundError:
        if "alias/" in key:
            return _last_key_of_alias(home, key)
    if is_key_id(key) and home.access.other_kms is None:
        return key_arn(home.caller.account, home.key_region, key)
    return key


def _last_key_of_alias(home: Home, alias: str) -> str:
    """The key that had an alias last, as the log has it. Raises KeyNotFoundError."""
    name = "alias/" + alias.partition("alias/")[2]
    arn: str | None = None
    for record in verified_records(home):
        arn = _named(record, name, region=home.key_region, account=home.caller.account) or arn
    if arn is None:
        raise KeyNotFoundError(f"no key has, or had, the alias {name}")
    return arn


def _named(record: AuditRecord, alias: str, *, region: str, account: str) -> str | None:
    """The key that was given an alias, if that is what the record is of."""
    parameters = record.request_parameters or {}
    if (
        record.event_name not in _ALIAS_EVENTS
        or record.error_code is not None
        or parameters.get("aliasName") != alias
        or (record.aws_region, record.recipient_account_id) != (region, account)
    ):
        return None
    # An alias that is changed concerns the key that had it, too.
    target = parameters.get("targetKeyId")
    arns = [resource.arn for resource in record.resources]
    return next((arn for arn in arns if target in (arn, arn.rpartition("/")[2])), None)
