"""What `status` says of volumes in use, and of keys that they are about to lose, or have lost."""

from typing import TYPE_CHECKING

from volcrypt.cli.session import JsonValue
from volcrypt.cli.text import format_time, iso_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volcrypt.operations.key_states import TroubledKey
    from volcrypt.operations.status import Status
    from volcrypt.operations.uses import InUse


def key_document(key: "TroubledKey") -> JsonValue:
    return {
        "KeyArn": key.key_arn,
        "KeyState": key.state,
        "Until": None if key.until is None else iso_time(key.until),
        "Volumes": key.volumes,
    }


def place_text(item: "InUse") -> str:
    """For a table: where the file systems of a volume are mounted, else where it is itself; the
    private mount below a loop device is nobody's business."""
    return ", ".join(item.file_systems) or (item.mount_point or "" if item.device is None else "")


def how_text(item: "InUse") -> str:
    """For a table: how a volume or snapshot is served."""
    words = {
        item.data_plane or "": True,
        "read-only": item.read_only,
        "discard": item.discard,
        "discard-zeros": item.discard_zeros,
        "kept": item.kept,
    }
    return ", ".join(word for word, holds in words.items() if word and holds)


def fence_document(item: "InUse") -> JsonValue:
    """`KeyWiped` is False while a request that hangs still needs the key."""
    if item.fenced is None:
        return None
    return {
        "Reason": item.fenced.reason,
        "Time": iso_time(item.fenced.fenced_at),
        "KeyWiped": item.fenced.wiped_at is not None,
    }


def watch_document(item: "InUse") -> JsonValue:
    """Members of a volume in use."""
    return {
        "OnKeyLoss": "fence" if any(state.check == "key" for state in item.checks) else "keep",
        "Fenced": fence_document(item),
        "Checks": [
            {
                "Check": state.check,
                "AnsweredAt": None if state.answered_at is None else iso_time(state.answered_at),
                "UnansweredSince": None
                if state.unanswered_since is None
                else iso_time(state.unanswered_since),
                "Problem": state.problem,
            }
            for state in item.checks
        ],
    }


def use_warnings(found: "Status") -> "Iterator[str]":
    for item in found.in_use:
        yield from _watch_warnings(item)
        if item.lazy is not None and item.lazy.problem:
            yield f"{item.name or item.volume_id} is not being filled: {item.lazy.problem}"
    for key in found.troubled_keys:
        key_id = key.key_arn.rpartition("/")[2]
        yield f"key {key_id} {_trouble(key)} {', '.join(key.volumes)}{_remedy(key, key_id)}"


def _watch_warnings(item: "InUse") -> "Iterator[str]":
    name = item.name or item.volume_id
    verb = "unmount" if item.device is None else "detach"
    if item.sync_failed:
        yield (
            f"{name} lost writes when a sync of its data failed, and takes no more; check the "
            f"storage, then end it with 'volcrypt {verb} {name}', and open it again"
        )
    if item.fenced is not None:
        yield (
            f"{name} is fenced since {format_time(item.fenced.fenced_at)}: {item.fenced.reason}; "
            f"end it with 'volcrypt {verb} {name}'"
        )
        if item.fenced.wiped_at is None:
            yield f"the data key of {name} is still in memory, for a request that hangs"
        return
    if item.writes_wait:
        yield f"{name}: writes wait until it can be told that this host still holds its lease"
    for state in item.checks:
        if state.unanswered_since is not None:
            yield (
                f"{name}: {state.check} not checked since {format_time(state.unanswered_since)}: "
                f"{state.problem}"
            )


def _remedy(key: "TroubledKey", key_id: str) -> str:
    return {
        "Disabled": f"; 'volcrypt kms enable-key --key-id {key_id}' ends that",
        "PendingDeletion": f"; 'volcrypt kms cancel-key-deletion --key-id {key_id}' keeps it",
    }.get(key.state, "")


def _trouble(key: "TroubledKey") -> str:
    date = "" if key.until is None else f" on {format_time(key.until)}"
    return {
        "Disabled": "is disabled, and is the key of",
        "PendingDeletion": f"is deleted{date}, and with it what it protects:",
        "PendingImport": "has no key material, and is the key of",
        "Enabled": f"loses its key material{date}, and is the key of",
        "NotFound": "is not known to this KMS, and is the key of",
    }.get(key.state, f"is in state {key.state}, and is the key of")
