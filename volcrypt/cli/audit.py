"""`volcrypt audit`: the record of every request to the KMS, allowed or denied."""

from typing import TYPE_CHECKING

import click
import msgspec

from volcrypt.cli.session import Command, Session, pass_session

if TYPE_CHECKING:
    from volcrypt.formats.audit_record import AuditRecord


@click.group()
def audit() -> None:
    """Read the record of every use of a key."""


@audit.command("list", cls=Command)
@click.option("--key", metavar="K", help="Only requests on this key (id, ARN or alias).")
@click.option("--operation", metavar="NAME", help="Only this operation, such as Decrypt.")
@click.option("--denied", is_flag=True, help="Only requests that were refused or failed.")
@click.option("--volume", metavar="VOLUME", help="Only requests whose context names this volume.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@pass_session
def list_(
    session: Session,
    key: str | None,
    operation: str | None,
    denied: bool,
    volume: str | None,
    last: int | None,
) -> None:
    """List audit records, oldest first."""
    from volcrypt.operations.audit import list_audit

    records = list_audit(
        session.home, key=key, operation=operation, denied=denied, volume=volume, last=last
    )

    session.show_table(
        {"Records": [msgspec.to_builtins(record) for record in records]},
        ["TIME", "OPERATION", "OUTCOME", "PRINCIPAL", "KEY", "CONTEXT"],
        [_row(record) for record in records],
    )


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
