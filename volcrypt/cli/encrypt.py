"""`volcrypt encrypt`: an unencrypted volume becomes an encrypted one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from volcrypt.cli.customer_key import give_key, making_key_option, opening_key_option
from volcrypt.cli.key_choice import key_choice
from volcrypt.cli.session import Command, Session, pass_session

if TYPE_CHECKING:
    from volcrypt.operations.encrypt_plan import EncryptionPlan
    from volcrypt.operations.keys import KeyChoice


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option(
    "--kms-key-id",
    metavar="K",
    help="Key id, ARN, alias or alias ARN [default: the account's default key].",
)
@making_key_option
@click.option(
    "--keep-old",
    is_flag=True,
    help="Keep the unencrypted volume, as NAME-unencrypted; not with --online.",
)
@click.option(
    "--delete-plain-snapshots",
    is_flag=True,
    help="Also delete the older unencrypted snapshots of VOLUME.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be done, and how long it may take."
)
@click.option(
    "--online", is_flag=True, help="VOLUME stays in use all the time, and keeps its id and mount."
)
@click.option("--rate", metavar="R", help="Bytes a second to move at most, like 50MiB.")
@click.option("--pause", is_flag=True, help="Have an unfinished run --online pause.")
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
    online: bool,
    rate: str | None,
    pause: bool,
    resume: bool,
    abort: bool,
) -> None:
    """Turn VOLUME into an encrypted volume of the same name.

    Of a volume that nobody is using it takes a snapshot, copies it under the key, makes a volume of
    the copy, reads that back from the medium and compares it with the original, gives it the name,
    and destroys the original. Data that is elsewhere stays there: on the same file system, or on
    its device, which is overwritten when the copy was compared with it.

    With --online VOLUME stays in use, or is not: it is copied under its readers and writers, who
    then go over to the copy. Its id stays.

    Interrupted at any point, the same command goes on where it was.
    """
    from volcrypt.operations.online import has_migration
    from volcrypt.snapshot.pace import parse_rate

    if dry_run + abort + resume + pause > 1:
        raise click.UsageError("--dry-run, --pause, --resume and --abort exclude each other")
    run = _Run(
        session=session,
        volume=volume,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        dry_run=dry_run,
        rate=None if rate is None else parse_rate(rate),
        resume=resume,
    )
    is_online = online or has_migration(session.home, volume)
    if pause or (abort and is_online):
        stop_migration(session, volume, abort=abort)
        return
    if abort:
        run.abort()
        return
    choice = key_choice(session, kms_key_id, False, customer_key_file)
    if not is_online:
        run.offline(choice)
    elif keep_old:
        raise click.UsageError("--keep-old is not for --online: the volume is the same one")
    else:
        run.online(choice, rekeys=False)


@click.command(cls=Command)
@click.argument("volume", metavar="VOLUME")
@click.option(
    "--kms-key-id",
    metavar="K",
    help="Key id, ARN, alias or alias ARN [default: the key that VOLUME is under].",
)
@click.option("--rate", metavar="R", help="Bytes a second to move at most, like 50MiB.")
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be done, and how long it may take."
)
@opening_key_option
@pass_session
def rekey(
    session: Session,
    volume: str,
    kms_key_id: str | None,
    rate: str | None,
    dry_run: bool,
    customer_key_file: Path | None,
) -> None:
    """Give VOLUME, which may be in use, a new data key, under another KMS key if need be.

    All of its data is encrypted anew, and the old ciphertext destroyed. Of a volume that is in use
    the old key is not asked for again: one that was lost can be replaced so. Interrupted at any
    point, the same command goes on; 'volcrypt encrypt VOLUME --pause' and '--abort' work too.
    """
    from volcrypt.operations.keys import KeyChoice
    from volcrypt.snapshot.pace import parse_rate

    give_key(session, customer_key_file)
    run = _Run(
        session=session,
        volume=volume,
        dry_run=dry_run,
        rate=None if rate is None else parse_rate(rate),
    )
    run.online(None if kms_key_id is None else KeyChoice(kms_key=kms_key_id), rekeys=True)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What was asked for."""

    session: Session
    volume: str
    keep_old: bool = False
    delete_plain_snapshots: bool = False
    dry_run: bool = False
    rate: int | None = None
    resume: bool = False

    def offline(self, choice: "KeyChoice") -> None:
        from volcrypt.cli.encrypt_view import show_report
        from volcrypt.operations.background import stoppable
        from volcrypt.operations.encrypt import encrypt_volume, plan_of_encryption

        home = self.session.home
        if self.dry_run:
            self._show_plan(
                plan_of_encryption(
                    home,
                    self.volume,
                    choice=choice,
                    keep_old=self.keep_old,
                    delete_plain_snapshots=self.delete_plain_snapshots,
                )
            )
            return
        with stoppable():
            report = encrypt_volume(
                home,
                self.volume,
                choice=choice,
                keep_old=self.keep_old,
                delete_plain_snapshots=self.delete_plain_snapshots,
                progress=self.session.progress(),
                rate=self.rate,
                only_resume=self.resume,
                announce=self._announce,
            )
        show_report(self.session, report)

    def online(self, choice: "KeyChoice | None", *, rekeys: bool) -> None:
        from volcrypt.cli.encrypt_view import show_migration
        from volcrypt.cli.mounts import watching_of
        from volcrypt.operations.background import stoppable
        from volcrypt.operations.online import migrate_volume, plan_of_migration
        from volcrypt.volume.launch import spawn_daemon

        home = self.session.home
        if self.dry_run:
            self._show_plan(
                plan_of_migration(
                    home,
                    self.volume,
                    choice=choice,
                    rekeys=rekeys,
                    delete_plain_snapshots=self.delete_plain_snapshots,
                )
            )
            return
        with stoppable():
            report = migrate_volume(
                home,
                self.volume,
                choice=choice,
                rekeys=rekeys,
                launch=spawn_daemon,
                watching=watching_of(self.session, "fence"),
                progress=self.session.progress(),
                rate=self.rate,
                delete_plain_snapshots=self.delete_plain_snapshots,
                only_resume=self.resume,
                announce=self._announce,
            )
        show_migration(self.session, report)

    def abort(self) -> None:
        from volcrypt.operations.encrypt import abort_encryption

        source_id = abort_encryption(self.session.home, self.volume)
        _show_given_up(self.session, self.volume, source_id)

    def _show_plan(self, plan: "EncryptionPlan") -> None:
        from volcrypt.cli.encrypt_view import plan_document, print_plan

        plan = plan.held_to(self.rate)
        self.session.show(plan_document(plan), lambda: print_plan(plan, sys.stdout))

    def _announce(self, plan: "EncryptionPlan") -> None:
        from volcrypt.cli.encrypt_view import print_plan

        if not self.session.as_json:
            print_plan(plan, sys.stderr)


def stop_migration(session: Session, volume: str, *, abort: bool) -> None:
    """Have a run --online pause, or give it up."""
    from volcrypt.operations.migration_orders import abort_migration, pause_migration

    if abort:
        _show_given_up(session, volume, abort_migration(session.home, volume))
        return
    migration = pause_migration(session.home, volume)
    way = f"'volcrypt encrypt {volume} --resume' goes on with it, '--abort' gives it up"
    session.show(
        {"VolumeId": migration.volume_id, "Paused": True},
        lambda: print(f"the {migration.called} of {volume} is paused; {way}"),
    )


def _show_given_up(session: Session, volume: str, volume_id: str) -> None:
    session.show(
        {"VolumeId": volume_id},
        lambda: print(f"{volume} is as it was ({volume_id}); what was begun is given up"),
    )
