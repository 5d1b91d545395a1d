"""`volcrypt report`: what is not encrypted, and what a key is needed for."""

import click

from volcrypt.cli.exits import Exit
from volcrypt.cli.session import Command, Group, Session, pass_session


@click.group(cls=Group)
def report() -> None:
    """What is not encrypted, under which key the rest is, and what a key is needed for."""


@report.command(cls=Command)
@click.pass_context
def encryption(context: click.Context) -> None:
    """Look at all volumes, snapshots in every store, unfinished work, and the keys of all that.

    Exit code 8 where something is found that somebody should change: what is not encrypted, or
    could not be looked at; keys that cannot be used, will end, or have not been rotated for a year;
    data keys that encrypted too much; exported headers. 0 otherwise.
    """
    from volcrypt.cli.home import embedded_warning
    from volcrypt.cli.report_view import encryption_document, print_encryption
    from volcrypt.operations.encryption_report import report_encryption

    session = context.ensure_object(Session)
    found = report_encryption(session.home)
    notes = [embedded_warning(session)]
    session.show(encryption_document(found, notes), lambda: print_encryption(found, notes))
    if found.findings:
        context.exit(Exit.FINDING)


@report.command(cls=Command)
@click.argument("key", metavar="KEY")
@pass_session
def key(session: Session, key: str) -> None:
    """Show what cannot be read without KEY, in all stores, and what it was used for.

    KEY is a key id, ARN or alias, also of a key that is deleted. Uses are those on the audit log,
    which is checked as a whole; what was only tried (a DryRun, as of a mounted volume with
    --on-key-loss fence) is counted apart.
    """
    from volcrypt.cli.report_view import key_report_document, print_key_report
    from volcrypt.operations.key_report import report_key

    found = report_key(session.key_home, key)
    session.show(key_report_document(found), lambda: print_key_report(found))
