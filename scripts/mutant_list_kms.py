"""Bugs in key management: what is compared, recorded, synced, and wiped."""

from typing import Final

from scripts.mutant import mutant

AUDIT, AUTHORISATION, CATALOG, CIPHERS, DATA, GRANTS, IMPORTS, KEYRING, PERFORMER, REWRAP, ROWS = (
    f"volcrypt/kms/{name}.py"
    for name in (
        "audit",
        "authorisation",
        "catalog",
        "ciphers",
        "data_operations",
        "grants",
        "import_operations",
        "keyring",
        "performer",
        "rewrap",
        "rows",
    )
)
T_AUDIT, T_CATALOG, T_DATA, T_ENDS, T_GRANTS, T_IMPORTS, T_REWRAP = (
    f"tests/kms/test_{name}.py"
    for name in (
        "audit",
        "catalog",
        "data_operations",
        "grant_ends",
        "grants",
        "import_operations",
        "rewrap",
    )
)

KEY_MANAGEMENT: Final = [
    mutant(
        "a grant that is passed on may have any source",
        GRANTS,
        [T_GRANTS],
        ("if other.source_arn not in (None, self.source_arn):", "if False:"),
    ),
    mutant(
        "the token of a grant opens any key",
        AUTHORISATION,
        ["tests/kms/test_grant_operations.py"],
        ("grant.key_arn == key.arn\n                and self", "self"),
    ),
    mutant(
        "a later user of the name retires grants",
        AUTHORISATION,
        [T_ENDS],
        (
            "permission.retiring_user_id in (None, principal.user_id)",
            "permission.retiring_user_id",
        ),
    ),
    mutant(
        "a ciphertext decrypts in another region",
        CIPHERS,
        [T_DATA],
        ("if key is None or key.region != self._region:", "if key is None:"),
    ),
    mutant(
        "the plaintext of a data key without plaintext stays",
        DATA,
        [T_DATA],
        (
            "wipe(plaintext)\n            return GenerateDataKeyWithoutPlaintextResponse(",
            "pass\n            return GenerateDataKeyWithoutPlaintextResponse(",
        ),
    ),
    mutant(
        "the plaintext of a reencryption stays",
        DATA,
        [T_DATA],
        (
            "wipe(plaintext)\n            return ReEncryptResponse(",
            "pass\n            return ReEncryptResponse(",
        ),
    ),
    mutant(
        "what the service does is recorded after it was done",
        PERFORMER,
        [T_REWRAP],
        (
            "                self._append(change, [event])\n                effect(change)",
            "                effect(change)\n                self._append(change, [event])",
        ),
    ),
    mutant(
        "the name of a new file of the audit log is not durable",
        AUDIT,
        [T_AUDIT],
        ("            sync_directory(self._directory)\n", "            pass\n"),
    ),
    mutant(
        "the head of a killed process is not written first",
        CATALOG,
        ["tests/kms/test_freshness.py"],
        ("if self._heads.read().catalogue < seal.counter:", "if False:"),
    ),
    mutant(
        "a list of items is not compared with its hashes",
        ROWS,
        [T_CATALOG],
        ("if (bucket_hash(entries) if entries else EMPTY_BUCKET) != digest:", "if False:"),
    ),
    mutant(
        "wrapped material that was removed stays in memory",
        CATALOG,
        [T_REWRAP],
        ("overwrite_journal()\n        self._rows.forget()", "overwrite_journal()"),
    ),
    mutant(
        "a deletion between the steps of a rewrapping is forgotten",
        REWRAP,
        [T_REWRAP],
        ("        if _step(change, token) is Step.RETIRE:", "        if token:"),
    ),
    mutant(
        "an import token is good at its end",
        IMPORTS,
        [T_IMPORTS],
        ("if self._clock() >= token.valid_to:", "if self._clock() > token.valid_to:"),
    ),
    mutant(
        "imported material stays in memory",
        IMPORTS,
        [T_IMPORTS],
        ("                plaintext[:] = bytes(len(plaintext))\n", "                pass\n"),
    ),
    mutant(
        "the private key of an import stays in memory",
        IMPORTS,
        [T_IMPORTS],
        (
            "        finally:\n            private_key[:] = bytes(len(private_key))\n\n",
            "        finally:\n            pass\n\n",
        ),
    ),
    mutant(
        "the private key of a new import stays in memory",
        IMPORTS,
        [T_IMPORTS],
        (
            "                private_key[:] = bytes(len(private_key))\n            return",
            "                pass\n            return",
        ),
    ),
    mutant(
        "a key that is about to be deleted gets an import token",
        IMPORTS,
        [T_IMPORTS],
        ("                    attempt.check_state(now)\n", ""),
    ),
    mutant(
        "an import survives its key",
        KEYRING,
        ["tests/kms/test_maintenance.py"],
        ("    change.delete(IMPORTS, key.key_id)\n", ""),
    ),
]
