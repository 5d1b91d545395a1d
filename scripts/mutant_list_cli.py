"""Bugs in what the command line hands on, asks, and ends with."""

from typing import Final

from scripts.mutant import mutant

T_HANDED, T_ANSWERS, T_EXITS = (
    f"tests/cli/test_{name}.py" for name in ("handed_on", "answers", "exits")
)

COMMAND_LINE: Final = [
    mutant(
        "--force of a device is another option",
        "volcrypt/cli/volume.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("single_host=single_host,\n    )", "single_host=force,\n    )"),
    ),
    mutant(
        "a volume from a snapshot goes where others go",
        "volcrypt/cli/volume.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("            placement=placement,\n            fill_rate", "            fill_rate"),
    ),
    mutant(
        "--keep-data is not handed on",
        "volcrypt/cli/volume.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        (
            "delete_volume(session.home, volume, keep_data=keep_data)",
            "delete_volume(session.home, volume)",
        ),
    ),
    mutant(
        "key options go together",
        "volcrypt/cli/key_choice.py",
        [f"{T_HANDED}::test_words_that_do_not_go_together_are_refused_before_anything_is_done"],
        ("is not None) > 1:", "is not None) > 2:"),
    ),
    mutant(
        "the passphrase of a LUKS image loses the end of its line",
        "volcrypt/cli/volume_transfer.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        (", keep_line_end=True", ""),
    ),
    mutant(
        "an export leaves out what is damaged unasked",
        "volcrypt/cli/volume_transfer.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("skip_damaged=skip_damaged", "skip_damaged=True"),
    ),
    mutant(
        "plaintext is written unasked",
        "volcrypt/cli/volume_transfer.py",
        [f"{T_ANSWERS}::test_where_nobody_can_be_asked_plaintext_takes_a_word"],
        ("if not yes and load_record(session.home, volume).is_encrypted:", "if False:"),
    ),
    mutant(
        "a volume is registered under any key",
        "volcrypt/cli/volume_transfer.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("kms_key=kms_key_id, force=force)", "force=force)"),
    ),
    mutant(
        "--read-only is not handed on",
        "volcrypt/cli/mounts.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        (
            "            read_only=read_only,\n            launch=launch,",
            "            read_only=False,\n            launch=launch,",
        ),
    ),
    mutant(
        "--on-key-loss fence is not handed on",
        "volcrypt/cli/mounts.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ('key=on_key_loss == "fence",', "key=False,"),
    ),
    mutant(
        "a lease is taken over before the look",
        "volcrypt/cli/mounts.py",
        [f"{T_HANDED}::test_who_takes_a_lease_over_has_looked_first_whether_it_is_of_use"],
        (
            ("            discards=discards,\n        )\n        _take_over(session, target)"),
            "            discards=discards,\n        )",
        ),
        (
            (
                "    if take_over:\n"
                "        # Nobody is stopped for a volume that could not be had afterwards.\n"
                "        check_mountable("
            ),
            ("    if take_over:\n        _take_over(session, target)\n        check_mountable("),
        ),
    ),
    mutant(
        "only one file system is frozen",
        "volcrypt/cli/snapshot.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("for directory in freeze],", "for directory in freeze[:1]],"),
    ),
    mutant(
        "a dry run encrypts",
        "volcrypt/cli/encrypt.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        (
            (
                "        home = self.session.home\n"
                "        if self.dry_run:\n"
                "            self._show_plan(\n"
                "                plan_of_encryption("
            ),
            (
                "        home = self.session.home\n"
                "        if False:\n"
                "            self._show_plan(\n"
                "                plan_of_encryption("
            ),
        ),
    ),
    mutant(
        "--resume begins an encryption",
        "volcrypt/cli/encrypt.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        (
            (
                "                rate=self.rate,\n"
                "                only_resume=self.resume,\n"
                "                announce=self._announce,\n"
                "            )\n"
                "        show_report"
            ),
            (
                "                rate=self.rate,\n"
                "                only_resume=False,\n"
                "                announce=self._announce,\n"
                "            )\n"
                "        show_report"
            ),
        ),
    ),
    mutant(
        "heads that are expected are not compared",
        "volcrypt/cli/snapshot.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ("store=store, heads=expected)", "store=store, heads=[])"),
    ),
    mutant(
        "a damaged snapshot ends with 0",
        "volcrypt/cli/snapshot.py",
        [f"{T_ANSWERS}::test_what_is_found_is_in_the_code"],
        (
            "    if found.damages:\n        context.exit(Exit.INTEGRITY)",
            "    if False:\n        context.exit(Exit.INTEGRITY)",
        ),
    ),
    mutant(
        "a store with any key is trusted",
        "volcrypt/cli/store.py",
        [f"{T_ANSWERS}::test_a_store_is_trusted_by_the_key_that_was_given"],
        ("            return found == expected", "            return True"),
    ),
    mutant(
        "a server does not wipe what it frees",
        "volcrypt/cli/serve.py",
        [
            f"{T_ANSWERS}::test_a_process_that_stays_wipes_what_it_frees_and_needs_no_pin_that_is_kept"
        ],
        ("    wipe_what_is_freed()\n", ""),
    ),
    mutant(
        "a new passphrase is typed once",
        "volcrypt/cli/backup.py",
        [f"{T_ANSWERS}::test_a_passphrase_that_nobody_can_see_is_typed_twice_where_it_is_made"],
        ("_passphrase(passphrase_file, twice=True)", "_passphrase(passphrase_file, twice=False)"),
    ),
    mutant(
        "--denied lists everything",
        "volcrypt/cli/audit.py",
        [f"{T_HANDED}::test_words_reach_their_operation"],
        ('if denied or outcome == "denied":', 'if outcome == "denied":'),
    ),
    mutant(
        "an error has the code of its base",
        "volcrypt/cli/exits.py",
        [f"{T_EXITS}::test_every_error_ends_with_its_code"],
        ("    (errors.KeyGoneError, Exit.DENIED),\n", ""),
    ),
    mutant(
        "a service whose KMS is away ends at once",
        "volcrypt/cli/main.py",
        [f"{T_EXITS}::test_a_service_tells_systemd_and_waits_before_it_is_started_again"],
        ("if code == Exit.TRY_AGAIN and os", "if False and os"),
    ),
    mutant(
        "the code that a command says is lost",
        "volcrypt/cli/main.py",
        [f"{T_EXITS}::test_a_command_may_say_its_code"],
        ("return code if isinstance(code, int) else Exit.DONE", "return Exit.DONE"),
    ),
]
