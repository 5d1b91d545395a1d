"""Bugs in operations: what a backup is of, what is believed of a volume that is registered, what
copies hold, and what is refused."""

from typing import Final

from scripts.mutant import mutant

T_BACKUPS, T_REGISTER, T_COPIES, T_REFUSALS = (
    f"tests/operations/test_{name}.py"
    for name in ("backups", "registration", "copy_holds", "refusals")
)

OPERATIONS: Final = [
    mutant(
        "a home is changed while it is backed up",
        "volcrypt/operations/backups.py",
        [f"{T_BACKUPS}::test_nobody_changes_the_home_while_what_may_change_is_read"],
        ("            held.enter_context(lock.held())\n", ""),
    ),
    mutant(
        "a home is changed before a backup has read it",
        "volcrypt/operations/backups.py",
        [f"{T_BACKUPS}::test_nobody_changes_the_home_while_what_may_change_is_read"],
        (
            "        def found() -> Iterator[Member]:\n",
            "        held.close()\n\n        def found() -> Iterator[Member]:\n",
        ),
    ),
    mutant(
        "a backup is of an unfinished change",
        "volcrypt/operations/backups.py",
        [
            f"{T_BACKUPS}::test_a_change_that_a_killed_process_left_is_undone_before_the_catalogue_is_read"
        ],
        ('if not _has_hot_journal(self._home.path / "kms" / CATALOG):', "if True:"),
    ),
    mutant(
        "a volume is registered without the seal of its data key",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_a_copy_that_the_data_key_did_not_seal_is_not_believed"],
        (
            "copied = _newest(home, copy.checked(seal), seal)",
            "copied = _newest(home, copy.claimed, seal)",
        ),
    ),
    mutant(
        "an older record is registered",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_another_record_than_the_known_one_is_newer_or_refused"],
        (
            ("if portable(copied) != portable(known) and copied.counter <= known.counter:"),
            "if False:",
        ),
    ),
    mutant(
        "another record of the same number is registered",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_another_record_than_the_known_one_is_newer_or_refused"],
        ("and copied.counter <= known.counter:", "and copied.counter < known.counter:"),
    ),
    mutant(
        "an older record comes in place of a damaged one",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_a_record_that_was_damaged_here_comes_back_and_no_older_one"],
        ("        if copied.counter < entry.counter:\n            raise\n", ""),
    ),
    mutant(
        "a change map outlives a registration",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_what_changed_is_not_known_any_more"],
        ("            remove_durably(directory / CHANGE_MAP_FILE)", "            pass"),
    ),
    mutant(
        "a change map comes back after a registration",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_what_changed_is_not_known_any_more"],
        (
            "            remove_durably(directory / CHANGE_MAP_FILE)",
            "            (directory / CHANGE_MAP_FILE).unlink()",
        ),
    ),
    mutant(
        "a live map outlives a registration",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_what_changed_is_not_known_any_more"],
        ("        home.live_map_path(known.volume_id).unlink(missing_ok=True)\n", ""),
    ),
    mutant(
        "an older copy than that in the store of a lease is registered",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_of_a_volume_with_a_lease_the_newer_of_two_copies_is_taken"],
        ("return other if other.counter > copied.counter else copied", "return copied"),
    ),
    mutant(
        "a volume is registered while it is in use",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_a_volume_that_is_in_use_here_keeps_its_record"],
        (
            'with home.exclusive(), hold_volume(directory, purpose="register"):',
            "with home.exclusive():",
        ),
    ),
    mutant(
        "data that others have may go with a registration",
        "volcrypt/operations/registration.py",
        [f"{T_REGISTER}::test_a_registration_that_fails_leaves_the_data_and_nothing_else"],
        ('        write_durably(directory / KEEP_DATA_FILE, b"")\n', ""),
    ),
    mutant(
        "a copy does not hold its source",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_source_and_base_are_held_while_they_are_read"],
        ("roots = [source.root] if origin is pin.store else []", "roots: list[bytes] = []"),
    ),
    mutant(
        "a copy does not hold its base",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_source_and_base_are_held_while_they_are_read"],
        ("pin.hold([base.root], size_bytes=base.size_bytes)", "pin.hold([])"),
    ),
    mutant(
        "a resumed copy gives up what it had",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_a_killed_copy_keeps_what_its_cursor_stands_on"],
        ("if not was_held or pin.size_bytes != source.size_bytes:", "if True:"),
    ),
    mutant(
        "a source that went before its pin is copied",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_a_source_that_goes_before_it_is_held_is_not_copied"],
        ("    origin.manifest(source.snapshot_id)\n", ""),
    ),
    mutant(
        "a copy that failed early holds on",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_a_copy_that_fails_before_it_has_a_cursor_holds_nothing"],
        (
            "if not copy_cursor_path(home, snapshot_id).exists():\n            with",
            "if False:\n            with",
        ),
    ),
    mutant(
        "a deleted source is taken for damaged",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_a_source_that_another_host_sweeps_away_is_not_damaged"],
        ("with origin.reading(source.snapshot_id):", "with suppress():"),
    ),
    mutant(
        "a cursor outlives its pin",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_a_cursor_whose_pin_was_swept_is_worth_nothing"],
        ("cursor = file.read() if resume else None", "cursor = file.read()"),
    ),
    mutant(
        "the pin of a slow copy is not renewed",
        "volcrypt/snapshot/copying.py",
        ["tests/snapshot/test_slow_transfer.py"],
        ("                await in_thread(self._thread, self._pin.renew)", "                pass"),
    ),
    mutant(
        "a completed copy leaves its pin",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_source_and_base_are_held_while_they_are_read"],
        (
            (
                "        pin.release()\n"
                "        cursor_file(home, snapshot_id).remove()\n"
                "        return manifest"
            ),
            ("        cursor_file(home, snapshot_id).remove()\n        return manifest"),
        ),
    ),
    mutant(
        "a sweep runs beside a copy",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_no_sweep_of_this_home_runs_beside_a_copy"],
        ("        store_in_use(home, store),\n        # The", "        # The"),
    ),
    mutant(
        "what is written under the key of a copy is counted anew",
        "volcrypt/operations/copies.py",
        [f"{T_COPIES}::test_what_is_encrypted_under_a_data_key_is_counted"],
        ("return known + stored.stored_bytes", "return stored.stored_bytes"),
    ),
    mutant(
        "a copy continues any other one",
        "volcrypt/operations/copy_bases.py",
        [f"{T_COPIES}::test_what_changed_is_only_told_of_the_very_original"],
        (
            ("            original.root != origin.root\n            or original.digest"),
            "            original.digest",
        ),
    ),
    mutant(
        "a snapshot that is no copy is continued",
        "volcrypt/operations/copy_bases.py",
        [f"{T_COPIES}::test_which_copy_is_continued"],
        (
            ("            if manifest.origin is not None\n            and manifest.signer"),
            "            if manifest.signer",
        ),
    ),
    mutant(
        "a copy is taken from the process that is at work on it",
        "volcrypt/operations/copy_creation.py",
        [f"{T_COPIES}::test_a_copy_that_a_process_is_at_work_on_is_left_to_it"],
        (
            "if snapshot_id in owned or (job is not None and job.is_pending):",
            "if snapshot_id in owned:",
        ),
    ),
    mutant(
        "chunks behind the end of a snapshot are fetched",
        "volcrypt/volume/present.py",
        ["tests/volume/test_present.py"],
        ("            absent[-1] &= (1 << rest) - 1\n", "            pass\n"),
    ),
    mutant(
        "a copy goes on under another key",
        "volcrypt/operations/copy_creation.py",
        [f"{T_COPIES}::test_only_the_same_copy_goes_on"],
        ("                and is_under(cursor.wrapped_key)\n", ""),
    ),
    mutant(
        "unfinished copies of what is there are given up",
        "volcrypt/operations/copy_cursors.py",
        [f"{T_COPIES}::test_copies_of_what_was_deleted_are_given_up"],
        ("                and store.is_deleted(cursor.source_snapshot_id)\n", ""),
    ),
    mutant(
        "who held a volume has it under an older key",
        "volcrypt/operations/leases.py",
        [f"{T_REFUSALS}::test_who_holds_a_volume_has_it_under_the_key_that_he_looked_at"],
        (
            (
                "        if data_key_id(current.wrapped_key) != "
                "data_key_id(record.wrapped_key):\n"
                "            raise"
            ),
            "        if False:\n            raise",
        ),
    ),
    mutant(
        "a volume that changed is deleted",
        "volcrypt/operations/volume_deletion.py",
        [f"{T_REFUSALS}::test_a_volume_that_changed_since_it_was_looked_at_is_not_deleted"],
        (", expect={(KIND, volume_id): entry.counter})", ")"),
    ),
    mutant(
        "a volume that a kill left attached is deleted",
        "volcrypt/operations/volume_deletion.py",
        [f"{T_REFUSALS}::test_a_volume_in_use_is_not_deleted"],
        ('        if (home.runtime / f"{volume_id}.mnt").exists():', "        if False:"),
    ),
    mutant(
        "a snapshot of an unfinished encryption is deleted",
        "volcrypt/operations/snapshot_deletion.py",
        [f"{T_REFUSALS}::test_snapshots_that_an_encryption_needs_are_not_deleted"],
        (
            "in (workflow.plain_snapshot_id, workflow.copy_snapshot_id)",
            "in (workflow.copy_snapshot_id,)",
        ),
    ),
    mutant(
        "an edited log is listed",
        "volcrypt/operations/audit.py",
        [f"{T_REFUSALS}::test_an_edited_log_is_not_listed"],
        ("    verify_audit(home)\n    return list", "    return list"),
    ),
    mutant(
        "a record that was just changed is damaged",
        "volcrypt/operations/records.py",
        [f"{T_REFUSALS}::test_who_reads_a_record_while_it_is_changed_reads_the_new_one"],
        ("            if newer == entry:", "            if newer:"),
    ),
]
