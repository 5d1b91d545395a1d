"""Bugs in what several hosts do in one snapshot store, and in what a bucket is believed."""

from typing import Final

from scripts.mutant import mutant

LOG, MARK, PIN, STORE_FILE, SWEEP, GARBAGE = (
    f"volcrypt/snapshot/{name}.py"
    for name in ("log", "sweep_mark", "pin", "store", "sweep", "garbage")
)
T_HOSTS, T_SWEEP, T_LASTING = (
    f"tests/snapshot/test_{name}.py" for name in ("interleavings", "sweep", "lasting_pin")
)

SECURE: Final = """    _secure(store, draft, signer)
    place = LogPlace(signer.id, manifest.sequence)
    return manifest, _append(store, EntryName(draft.snapshot_id, place), data)"""

SECURED_LATE: Final = """    place = LogPlace(signer.id, manifest.sequence)
    appended = _append(store, EntryName(draft.snapshot_id, place), data)
    _secure(store, draft, signer)
    return manifest, appended"""

STORE: Final = [
    mutant(
        "a sweep does not look for pins",
        SWEEP,
        [f"{T_HOSTS}::test_condemned_then_put_again_then_not_deleted"],
        ("if is_recent(pin.renewed_at, clock()):", "if False:"),
    ),
    mutant(
        "a sweep does not read again what is needed",
        SWEEP,
        [f"{T_HOSTS}::test_condemned_then_committed_then_not_deleted"],
        (
            "garbage_among(condemned.names, find_live(store, held, tick=mark.tick))",
            "iter(condemned.names)",
        ),
    ),
    mutant(
        "a sweep does not read lasting pins again",
        SWEEP,
        [f"{T_LASTING}::test_what_was_condemned_before_the_pin_is_not_deleted_after_it"],
        ("[*kept, *(pin for _, pin in lasting_pins(store))]", "[*kept]"),
    ),
    mutant(
        "exists is trusted",
        STORE_FILE,
        [
            "tests/snapshot/test_transfer.py::test_a_bad_object_under_a_final_name_is_replaced_and_reported"
        ],
        (
            "if len(present) == memoryview(data).nbytes and self.digest.digest(present) == digest:",
            "if present is not None:",
        ),
    ),
    mutant(
        "a commit does not look for its hold",
        LOG,
        [f"{T_HOSTS}::test_exists_was_answered_then_swept_elsewhere_then_committed"],
        ("if hold not in store.objects.list(hold):", "if not hold:"),
    ),
    mutant(
        "a renewal brings a pin back",
        LOG,
        [f"{T_HOSTS}::test_a_renewal_does_not_bring_back_what_was_taken_for_dead"],
        (
            "    hold = layout.hold_name(draft.snapshot_id)",
            "    hold = layout.pin_name(draft.snapshot_id)",
        ),
    ),
    mutant(
        "a pin lasts after the manifest only",
        LOG,
        [f"{T_HOSTS}::test_whoever_has_looked_and_not_yet_committed_is_waited_for"],
        (SECURE, SECURED_LATE),
    ),
    mutant(
        "who commits just now is taken for dead",
        PIN,
        [f"{T_HOSTS}::test_whoever_has_looked_and_not_yet_committed_is_waited_for"],
        ("if pin is not None and pin.lasting:", "if False:"),
    ),
    mutant(
        "a maker does not look for a sweep",
        PIN,
        [f"{T_HOSTS}::test_who_comes_during_the_deletions_gives_way"],
        ("        if swept:", "        if False:"),
    ),
    mutant(
        "an old mark is not watched",
        MARK,
        [f"{T_HOSTS}::test_a_maker_whose_clock_is_ahead_does_not_take_a_sweep_for_dead"],
        ("        pause(WATCH_SECONDS)\n", ""),
    ),
    mutant(
        "a sweep goes on after it slept",
        MARK,
        [f"{T_HOSTS}::test_a_sweep_that_slept_deletes_nothing_more"],
        ("if silent >= GIVE_UP_SECONDS:", "if False:"),
    ),
    mutant(
        "a mark is not renewed",
        MARK,
        [f"{T_HOSTS}::test_the_mark_of_a_sweep_that_goes_on_is_renewed"],
        ("if silent >= RENEW_SECONDS:", "if False:"),
    ),
    mutant(
        "a sweep waits for the pin of a clock that was wrong",
        MARK,
        [f"{T_HOSTS}::test_a_pin_of_a_clock_that_was_wrong_does_not_hold_up_sweeps_for_years"],
        ("abs(now - renewed_at)", "(now - renewed_at)"),
    ),
    mutant(
        "a deletion elsewhere blocks a sweep",
        GARBAGE,
        [f"{T_HOSTS}::test_a_sweep_beside_a_deletion_that_was_swept_elsewhere_is_not_blocked"],
        ("if not store.is_deleted(snapshot_id):", "if snapshot_id:"),
    ),
    mutant(
        "a manifest that is only gone is taken for deleted",
        GARBAGE,
        [f"{T_SWEEP}::test_a_manifest_that_is_only_gone_is_not_taken_for_deleted"],
        (
            "except (SnapshotNotFoundError, Form",
            "except SnapshotNotFoundError:\n            pass\n        except (Form",
        ),
    ),
    mutant(
        "a resumed copy forgets what it had",
        PIN,
        [f"{T_HOSTS}::test_killed_twice_a_copy_still_has_what_its_cursor_says"],
        (
            "self._roots = list(roots) if before is None else before.roots",
            "self._roots = list(roots)",
        ),
    ),
    mutant(
        "a killed sweep is in the way of its own host",
        MARK,
        [f"{T_HOSTS}::test_the_mark_of_a_killed_sweep_is_not_in_the_way_for_ever"],
        ("if mark.signer == self._signer.id:", "if False:"),
    ),
]

BUCKETS: Final = [
    mutant(
        "a bucket is believed what it stored",
        "volcrypt/snapshot/s3.py",
        ["tests/snapshot/test_s3_faults.py"],
        ("self._acknowledged.check(self._length)", "pass"),
    ),
    mutant(
        "a bucket is believed the length of what it stored",
        "volcrypt/snapshot/acknowledged.py",
        ["tests/snapshot/test_s3_faults.py"],
        ("if length != lengths[name]:", "if length is None:"),
    ),
    mutant(
        "a conflict in a bucket is taken for an object",
        "volcrypt/snapshot/s3_errors.py",
        ["tests/snapshot/test_s3_faults.py"],
        ("return _status(error) != 409", "return True"),
    ),
    mutant(
        "a bucket is believed that it has an entry of the log",
        "volcrypt/snapshot/log.py",
        ["tests/snapshot/test_log.py::test_an_entry_is_read_back_before_it_is_believed"],
        ("        found = store.objects.get(name.text)\n", "        found = data\n"),
    ),
    mutant(
        "findings in a bucket come as they are found",
        "volcrypt/snapshot/read_ahead.py",
        ["tests/snapshot/test_verify_in_flight.py"],
        ("first = self._waiting.popleft()", "first = self._waiting.pop()"),
    ),
]
