"""`volcrypt encrypt`: an unencrypted volume becomes an encrypted one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.customer_key import making_key_option
from volcrypt.cli.key_choice import key_choice
from volcrypt.cli.session import Command, Session, pass_session

if TYPE_CHECKING:
    from volcrypt.operations.encrypt_plan import EncryptionPlan


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option(
    "--kms-key-id",
    metavar="K",
    help="Key id, ARN, alias or alias ARN [default: the account's default key].",
)
@making_key_option
@click.option("--keep-old", is_flag=True, help="Keep the unencrypted volume, as NAME-unencrypted.")
@click.option(
    "--delete-plain-snapshots",
    is_flag=True,
    help="Also delete the older unencrypted snapshots of VOLUME.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be done, and how long it may take."
)
@click.option("--rate", metavar="R", help="Bytes a second to move at most, like 50MiB.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run, and begin none.")
@click.option(
    "--abort", is_flag=True, help="Give up an unfinished run; VOLUME is as it was before."
)
@pass_session
def encrypt(
    session: Session,
    volume: str,
    kms_key_id: str | None,
    customer_key_file: Path | None,
    keep_old: bool,
    delete_plain_snapshots: bool,
    dry_run: bool,
    rate: str | None,
    resume: bool,
    abort: bool,
) -> None:
    """Turn VOLUME, which nobody may be using, into an encrypted volume of the same name.

    Takes a snapshot, copies it under the key, makes a volume of the copy, reads that back from the
    medium and compares it with the original, gives it the name, and destroys the original. Data
    that is elsewhere stays there: on the same file system, or on its device, which is overwritten
    when the copy was compared with it. Interrupted at any point, the same command goes on where it
    was.
    """
    from volcrypt.cli.encrypt_view import plan_document, print_plan, show_report
    from volcrypt.operations.encrypt import abort_encryption, encrypt_volume, plan_of_encryption
    from volcrypt.snapshot.pace import parse_rate

    if dry_run + abort + resume > 1:
        raise click.UsageError("--dry-run, --resume and --abort exclude each other")
    bytes_a_second = None if rate is None else parse_rate(rate)
    if abort:
        source_id = abort_encryption(session.home, volume)
        session.show(
            {"VolumeId": source_id},
            lambda: print(f"the encryption of {volume} is given up; {source_id} is as it was"),
        )
        return
    choice = key_choice(session, kms_key_id, False, customer_key_file)
    if dry_run:
        plan = plan_of_encryption(
            session.home,
            volume,
            choice=choice,
            keep_old=keep_old,
            delete_plain_snapshots=delete_plain_snapshots,
        )
        session.show(plan_document(plan), lambda: print_plan(plan, sys.stdout))
        return

    def announce(plan: "EncryptionPlan") -> None:
        if not session.as_json:
            print_plan(plan, sys.stderr)

    report = encrypt_volume(
        session.home,
        volume,
        choice=choice,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        progress=session.progress(),
        rate=bytes_a_second,
        only_resume=resume,
        announce=announce,
    )
    show_report(session, report)
