"""`volcrypt encrypt`: an unencrypted volume becomes an encrypted one."""

import sys
from pathlib import Path

import click

from volcrypt.cli.customer_key import making_key_option
from volcrypt.cli.key_choice import key_choice
from volcrypt.cli.session import Command, Session, pass_session, print_fields
from volcrypt.geometry import format_size


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
    abort: bool,
) -> None:
    """Turn VOLUME, which nobody may be using, into an encrypted volume of the same name.

    Takes a snapshot, copies it under the key, makes a volume of the copy, reads that back from the
    medium and compares it with the original, gives it the name, and removes the original.
    Interrupted at any point, the same command goes on where it was.
    """
    from volcrypt.operations.encrypt import abort_encryption, encrypt_volume

    if abort:
        source_id = abort_encryption(session.home, volume)
        session.show(
            {"VolumeId": source_id},
            lambda: print(f"the encryption of {volume} is given up; {source_id} is as it was"),
        )
        return
    report = encrypt_volume(
        session.home,
        volume,
        choice=key_choice(session, kms_key_id, False, customer_key_file),
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        progress=session.progress(),
    )
    document = {
        "VolumeId": report.volume_id,
        "Name": report.name,
        "OldVolumeId": report.old_volume_id,
        "OldVolumeName": report.old_volume_name,
        "KeySource": "customer" if report.kms_key_arn is None else "kms",
        "KmsKeyId": report.kms_key_arn,
        "VerifiedBytes": report.verified_bytes,
        "Seconds": report.seconds,
        "PlainSnapshotsLeft": report.plain_snapshots_left,
        "PlainSnapshotsDeleted": report.plain_snapshots_deleted,
        "StoresNotRead": report.stores_not_read,
    }
    old = (
        f"kept as {report.old_volume_name or report.old_volume_id}"
        if report.old_volume_kept
        else "removed"
    )
    session.show(
        document,
        lambda: print_fields(
            {
                "encrypted volume": f"{report.volume_id} ({report.name or 'no name'})",
                "key": report.kms_key_arn or "customer-provided",
                "compared": f"{format_size(report.verified_bytes)}, read back from the medium",
                "old volume": f"{report.old_volume_id} is {old}",
                "time": f"{report.seconds:.1f} s",
            }
        ),
    )
    if report.plain_snapshots_left:
        print(
            f"warning: unencrypted snapshots remain: {', '.join(report.plain_snapshots_left)}; "
            "delete them with 'volcrypt snapshot delete'",
            file=sys.stderr,
        )
    if report.stores_not_read:
        print(
            f"warning: these snapshot stores do not answer, and may hold unencrypted snapshots "
            f"too: {', '.join(report.stores_not_read)}",
            file=sys.stderr,
        )
