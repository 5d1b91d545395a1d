"""Facts of a request: the values of the condition keys that policies can ask for.

    of the caller    aws:PrincipalArn, PrincipalAccount, PrincipalType, username, userid, SourceIp,
                     UserAgent, CurrentTime, EpochTime, RequestedRegion, ViaAWSService;
                     kms:CallerAccount, kms:ViaService
    of the key       aws:ResourceAccount, aws:ResourceTag/KEY, kms:KeySpec, KeyUsage, KeyOrigin,
                     MultiRegion, ResourceAliases; kms:RequestAlias if the request names one
    of the context   kms:EncryptionContext:KEY, kms:EncryptionContextKeys
    of the request   what its members say: see `_MEMBERS`; aws:RequestTag/KEY, aws:TagKeys
    of the operation what its decider adds: kms:GrantOperations, kms:ReEncryptOnSameKey, ...

A key that a request has nothing for is missing. What costs a look into the catalogue is found when
a policy asks for it. None of it comes from where the caller could choose it, but for what is the
request itself.
"""

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from volcrypt.kms.messages.choices import SYMMETRIC_DEFAULT
from volcrypt.kms.model import Caller, KmsKey, volume_service
from volcrypt.kms.patterns import Values
from volcrypt.kms.principals import Principal

Given = Mapping[str, Values]
"""Condition keys, written as AWS writes them, with their values."""
NOTHING_GIVEN: Final[Given] = MappingProxyType({})

_MEMBERS: Final = MappingProxyType(
    {
        "bypass_policy_lockout_safety_check": "kms:BypassPolicyLockoutSafetyCheck",
        "encryption_algorithm": "kms:EncryptionAlgorithm",
        "expiration_model": "kms:ExpirationModel",
        "pending_window_in_days": "kms:ScheduleKeyDeletionPendingWindowInDays",
        "policy_name": "kms:PolicyName",
        "rotation_period_in_days": "kms:RotationPeriodInDays",
        "valid_to": "kms:ValidTo",
        "wrapping_algorithm": "kms:WrappingAlgorithm",
        "wrapping_key_spec": "kms:WrappingKeySpec",
    }
)
_MEMBERS_OF_NEW_KEYS: Final = MappingProxyType(
    {
        "key_spec": "kms:KeySpec",
        "key_usage": "kms:KeyUsage",
        "origin": "kms:KeyOrigin",
        "multi_region": "kms:MultiRegion",
    }
)


class RequestFacts:
    """Facts, some of which are found out when they are asked for."""

    def __init__(self) -> None:
        self._values: dict[str, Values] = {}
        self._sources: dict[str, Callable[[], Values]] = {}
        self._unread: list[Callable[[], Given]] = []

    def get(self, key: str) -> Values:
        while self._unread:
            for name, values in self._unread.pop()().items():
                self._values.setdefault(name.lower(), values)
        found = self._values.get(key)
        if found is None:
            source = self._sources.get(key)
            found = self._values[key] = source() if source is not None else ()
        return found

    def add(self, given: Given) -> None:
        self._values.update((key.lower(), values) for key, values in given.items())

    def add_when_asked(self, given: Callable[[], Given]) -> None:
        """Facts that are gathered when any is asked for; one that was added itself goes before."""
        self._unread.append(given)

    def add_source(self, key: str, source: Callable[[], Values]) -> None:
        self._sources[key.lower()] = source


def caller_facts(
    caller: Caller, principal: Principal | None, *, region: str, now: float
) -> dict[str, Values]:
    """`principal` is the caller as the catalogue knows it; None for a root."""
    moment = datetime.fromtimestamp(now, UTC)
    facts: dict[str, Values] = {
        "aws:PrincipalArn": (caller.arn,),
        "aws:PrincipalAccount": (caller.account,),
        "aws:PrincipalType": ("Account" if principal is None else "User",),
        "aws:userid": (caller.account if principal is None else principal.user_id,),
        "aws:UserAgent": (caller.user_agent,),
        "aws:CurrentTime": (moment.strftime("%Y-%m-%dT%H:%M:%SZ"),),
        "aws:EpochTime": (str(int(now)),),
        "aws:RequestedRegion": (region,),
        "aws:ViaAWSService": (_text(caller.via_service),),
        "aws:SecureTransport": (_text(caller.is_secure),),
        "kms:CallerAccount": (caller.account,),
    }
    if principal is not None:
        facts["aws:username"] = (principal.name,)
    if caller.via_service:
        facts["kms:ViaService"] = (volume_service(region),)
    if _is_address(caller.source_address):
        facts["aws:SourceIp"] = (caller.source_address,)
    return facts


def key_facts(key: KmsKey) -> dict[str, Values]:
    return {
        "aws:ResourceAccount": (key.account,),
        "kms:KeySpec": (SYMMETRIC_DEFAULT,),
        "kms:KeyUsage": ("ENCRYPT_DECRYPT",),
        "kms:KeyOrigin": (key.origin.value,),
        "kms:MultiRegion": ("false",),
        **tag_facts("aws:ResourceTag", key.tags),
    }


def tag_facts(prefix: str, tags: Mapping[str, str]) -> dict[str, Values]:
    """One condition key per tag. Tags that differ in case alone are one condition key with several
    values."""
    return _grouped((f"{prefix}/{key}", value) for key, value in tags.items())


def context_facts(context: Mapping[str, str]) -> dict[str, Values]:
    """The same for the pairs of an encryption context, and their keys as they are written."""
    if not context:
        return {}
    return _grouped((f"kms:EncryptionContext:{key}", value) for key, value in context.items()) | {
        "kms:EncryptionContextKeys": tuple(context)
    }


def request_facts(operation: str, request: object) -> dict[str, Values]:
    """What the members of the request say, those that it has."""
    members = dict(_MEMBERS)
    if operation == "CreateKey":
        members |= _MEMBERS_OF_NEW_KEYS
    facts: dict[str, Values] = {
        key: (_text(value),)
        for name, key in members.items()
        if (value := getattr(request, name, None)) is not None
    }
    tags = {tag.tag_key: tag.tag_value for tag in getattr(request, "tags", None) or ()}
    keys = tuple(getattr(request, "tag_keys", None) or tags)
    if keys:
        facts["aws:TagKeys"] = keys
    return facts | tag_facts("aws:RequestTag", tags)


def _grouped(pairs: Any) -> dict[str, Values]:
    facts: dict[str, Values] = {}
    for key, value in pairs:
        facts[key.lower()] = (*facts.get(key.lower(), ()), value)
    return facts


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
