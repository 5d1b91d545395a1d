"""Bugs in what many parts do together, for the histories of the whole product."""

from typing import Final

from scripts.mutant import mutant

HISTORY: Final = ["tests/properties/test_product_model.py::test_a_history_of_everything"]

PRODUCT: Final = [
    mutant(
        "a snapshot stores a chunk in the place of another",
        "volcrypt/snapshot/mover.py",
        HISTORY,
        (
            "        self._source.read_chunk(index, view)\n        if is_zero(view):",
            "        self._source.read_chunk(index & ~1, view)\n        if is_zero(view):",
        ),
    ),
    mutant(
        "an incremental snapshot leaves a changed chunk out",
        "volcrypt/snapshot/plan.py",
        HISTORY,
        (
            "    return StorePlan(chunks=changed,",
            "    changed.remove_from(changed.chunk_count - 1); return StorePlan(chunks=changed,",
        ),
    ),
    mutant(
        "the changes of a snapshot that failed are forgotten",
        "volcrypt/volume/change_map.py",
        HISTORY,
        (
            "            self._live.merge_older()\n            self._live.state",
            "            self._live.state",
        ),
    ),
    mutant(
        "a volume keeps its wrapped key when it gets another data key",
        "volcrypt/operations/migrations.py",
        HISTORY,
        ("        wrapped_key=migration.target_key,\n        key", "        key"),
    ),
    mutant(
        "a Deny of a key policy is not looked at",
        "volcrypt/kms/policy.py",
        HISTORY,
        ("    if _denies(document, request):", "    if False:"),
    ),
    mutant(
        "a disabled key can be used",
        "volcrypt/kms/lifecycle.py",
        HISTORY,
        (
            "_USE: Final = (\n    Rule.OK,\n    Rule.DISABLED,",
            "_USE: Final = (\n    Rule.OK,\n    Rule.OK,",
        ),
    ),
    mutant(
        "encryption by default is a wish",
        "volcrypt/operations/keys.py",
        HISTORY,
        (
            "    if not choice.encrypted and home.volume_settings",
            "    if False and home.volume_settings",
        ),
    ),
    mutant(
        "an import that could not be forgotten is in the way",
        "volcrypt/operations/images.py",
        ["tests/operations/test_images.py::test_a_disk_that_fills_up_when_the_register_knows"],
        ("        forget_import(home, cursor.volume_id)\n    except", "        pass\n    except"),
    ),
]
