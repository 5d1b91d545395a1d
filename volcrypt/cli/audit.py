"""`volcrypt audit`: the record of every request to the KMS, allowed or denied."""

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from volcrypt.cli.session import Command, Group, Session, pass_session, print_fields
from volcrypt.cli.text import iso_time
from volcrypt.cli.times import read_time

if TYPE_CHECKING:
    from volcrypt.formats.audit_record import AuditRecord


@click.group(cls=Group)
def audit() -> None:
    """Read and check the record of every use of a key."""


@audit.command("list", cls=Command)
@click.option("--key", metavar="K", help="Only requests on this key (id, ARN or alias).")
@click.option("--principal", metavar="P", help="Only requests of this principal (name or ARN).")
@click.option("--operation", metavar="NAME", help="Only this operation, such as Decrypt.")
@click.option(
    "--outcome",
    metavar="O",
    help="Only what was 'allowed', what was 'denied' or failed, or one error code.",
)
@click.option("--denied", is_flag=True, help="The same as --outcome denied.")
@click.option("--since", metavar="TIME", help="Only from then on: 2026-01-31, or with a time.")
@click.option("--until", metavar="TIME", help="Only up to then.")
@click.option(
    "--volume", metavar="VOLUME", help="Only requests whose context names this volume or snapshot."
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@pass_session
def list_(
    session: Session,
    /,
    denied: bool,
    outcome: str | None,
    since: str | None,
    until: str | None,
    **wanted: Any,
) -> None:
    """List audit records, oldest first."""
    from volcrypt.operations.audit import list_audit

    if denied and outcome not in (None, "denied"):
        raise click.UsageError("--denied and --outcome exclude each other")
    if denied or outcome == "denied":
        outcome = "failed"
    records = list_audit(
        session.key_home,
        outcome=outcome,
        since=_event_time(since),
        until=_event_time(until),
        **wanted,
    )
    if not records and wanted["key"] is not None and not session.as_json:
        print(
            f"note: no such request on key {wanted['key']} is on record; nothing here knows more "
            "of a key that was deleted long ago, or never existed",
            file=sys.stderr,
        )
    if not records and wanted["operation"] is not None and not session.as_json:
        from volcrypt.kms.protocol import ALL_OPERATIONS

        if wanted["operation"] not in ALL_OPERATIONS:
            print(
                f"note: nothing is on record as {wanted['operation']}; operations are written like "
                "Decrypt or ScheduleKeyDeletion",
                file=sys.stderr,
            )
    session.show_table(
        {"Records": [msgspec.to_builtins(record) for record in records]},
        ["TIME", "OPERATION", "OUTCOME", "PRINCIPAL", "KEY", "CONTEXT"],
        [_row(record) for record in records],
    )


@audit.command(cls=Command)
@click.option(
    "--expect-head",
    metavar="H",
    help="A head that an earlier 'audit verify' printed: the log must go on from there.",
)
@pass_session
def verify(session: Session, expect_head: str | None) -> None:
    """Check every record of the log, and print its head, to be kept elsewhere."""
    from volcrypt.operations.audit import verify_audit

    found = verify_audit(session.key_home, expected=expect_head)
    document = {
        "Head": found.head,
        "Records": found.records,
        "UnsealedRecords": found.unsealed,
        "ExpectedHead": expect_head,
    }
    fields = {
        "head": found.head,
        "records": str(found.records),
        "unsealed": str(found.unsealed),
        "rollback": "checked: goes on from the expected head"
        if expect_head is not None
        else "not checked: give --expect-head",
    }
    session.show(document, lambda: print_fields(fields))


def _event_time(text: str | None) -> str | None:
    return iso_time(read_time(text)) if text is not None else None


def _row(record: "AuditRecord") -> list[str]:
    contexts = [
        f"{name}={value}"
        for parameter, context in (record.request_parameters or {}).items()
        if parameter.lower().endswith("encryptioncontext")
        for name, value in context.items()
    ]
    return [
        record.event_time,
        record.event_name,
        record.error_code or "allowed",
        record.user_identity.arn or record.user_identity.type,
        record.resources[0].arn.rpartition("/")[2] if record.resources else "",
        ",".join(contexts),
    ]
