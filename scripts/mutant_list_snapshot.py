"""Bugs in what is believed of a snapshot store: signers, names, the log, pins, leases, cursors."""

from typing import Final

from scripts.mutant import mutant

SNAPSHOTS: Final = [
    mutant(
        "a certificate may have another key in it",
        "volcrypt/formats/certificate.py",
        ["tests/snapshot/test_damage.py"],
        ("        or signer_id(certificate.public_key) != certificate.signer\n", ""),
    ),
    mutant(
        "the certificate of another signer is believed",
        "volcrypt/snapshot/store.py",
        ["tests/snapshot/test_damage.py"],
        ("certificate.signer != signer or certificate.store_id", "certificate.store_id"),
    ),
    mutant(
        "the certificate of another store is believed",
        "volcrypt/snapshot/store.py",
        ["tests/snapshot/test_damage.py"],
        (
            "if certificate.signer != signer or certificate.store_id != self.store_id:",
            "if certificate.signer != signer:",
        ),
    ),
    mutant(
        "a tombstone of another snapshot deletes",
        "volcrypt/snapshot/store.py",
        ["tests/snapshot/test_damage.py"],
        (
            (
                "            EntryName(tombstone.snapshot_id, place, deleted) != name\n"
                "            or tombstone.store_id"
            ),
            "            tombstone.store_id",
        ),
    ),
    mutant(
        "a tombstone of another store deletes",
        "volcrypt/snapshot/store.py",
        ["tests/snapshot/test_damage.py"],
        (
            (
                "            EntryName(tombstone.snapshot_id, place, deleted) != name\n"
                "            or tombstone.store_id != self.store_id"
            ),
            "            EntryName(tombstone.snapshot_id, place, deleted) != name",
        ),
    ),
    mutant(
        "a forged tombstone hides a snapshot",
        "volcrypt/snapshot/store.py",
        ["tests/snapshot/test_damage.py"],
        ("{each for each in doubtful if self.is_deleted(each)}", "doubtful"),
    ),
    mutant(
        "what was deleted is committed again",
        "volcrypt/snapshot/log.py",
        ["tests/snapshot/test_log.py"],
        (
            (
                "    if store.tombstone(draft.snapshot_id) is not None:\n"
                "        raise InvalidArgument"
            ),
            "    if False:\n        raise InvalidArgument",
        ),
    ),
    mutant(
        "who has no certificate commits",
        "volcrypt/snapshot/log.py",
        ["tests/snapshot/test_log.py"],
        ("    store.verifier_of(signer.id)\n", ""),
    ),
    mutant(
        "the release of another lease is believed",
        "volcrypt/snapshot/lease.py",
        ["tests/snapshot/test_lease.py"],
        ("        self._check_named(release, lease.epoch, what)\n", ""),
    ),
    mutant(
        "who lost a lease releases it",
        "volcrypt/snapshot/lease.py",
        ["tests/snapshot/test_lease.py"],
        (
            "            if not self.is_ours(self._read(epoch)):\n                return",
            "            self._read(epoch)",
        ),
    ),
    mutant(
        "a copy goes on with the cursor of another source",
        "volcrypt/snapshot/copying.py",
        ["tests/snapshot/test_copying.py"],
        (
            (
                "if (cursor.source_root, cursor.target_store_id, cursor.target_snapshot_id) != (\n"
                "        source.root,\n"
                "        pin"
            ),
            "if (cursor.target_store_id, cursor.target_snapshot_id) != (\n        pin",
        ),
    ),
    mutant(
        "a manifest may count other chunks",
        "volcrypt/snapshot/verify.py",
        ["tests/snapshot/test_damage.py"],
        ("        if complete and held != manifest.data_chunks:", "        if False:"),
    ),
    mutant(
        "another snapshot is verified in the place of a parent",
        "volcrypt/snapshot/verify.py",
        ["tests/snapshot/test_damage.py"],
        ('                if point.root not in (b"", manifest.root):', "                if False:"),
    ),
    mutant(
        "another deleted one is verified in the place of a parent",
        "volcrypt/snapshot/verify.py",
        ["tests/snapshot/test_damage.py"],
        ('point.root not in (b"", tombstone.root) and not tombstone.damaged:', "False:"),
    ),
    mutant(
        "a lasting pin holds any snapshot",
        "volcrypt/snapshot/pin.py",
        ["tests/snapshot/test_lasting_pin.py"],
        ("    return pin.lasting and source.root in pin.roots", "    return pin.lasting"),
    ),
    mutant(
        "a pin outlives its hold",
        "volcrypt/snapshot/pin.py",
        ["tests/snapshot/test_sweep.py"],
        (
            (
                "    store.objects.delete(layout.pin_name(snapshot_id))\n"
                "    store.objects.delete(layout.hold_name(snapshot_id))\n"
            ),
            (
                "    store.objects.delete(layout.hold_name(snapshot_id))\n"
                "    store.objects.delete(layout.pin_name(snapshot_id))\n"
            ),
        ),
    ),
    mutant(
        "a hold that was swept is taken for held",
        "volcrypt/snapshot/pin.py",
        ["tests/snapshot/test_sweep.py"],
        (
            "                return self.store.objects.get(name) != data",
            "                return True",
        ),
    ),
    mutant(
        "what runs while a key is wiped keeps it",
        "volcrypt/snapshot/recryptor.py",
        ["tests/snapshot/test_recryptor.py"],
        (
            "        if self._wiped:\n            # `wipe`",
            "        if False:\n            # `wipe`",
        ),
    ),
]
