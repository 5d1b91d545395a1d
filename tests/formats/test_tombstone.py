"""Tombstones whose values contradict each other."""

from typing import Any

import msgspec
import pytest

from tests.fakes.snapshots import SIGNER
from tests.formats.samples import TOMBSTONE, verifier_of
from volcrypt.errors import MalformedError
from volcrypt.formats.tombstone import decode_tombstone, encode_tombstone


@pytest.mark.parametrize(
    "members",
    [
        {"snapshot_id": "snap-1"},
        {"sequence": 0},
        {"deleted_sequence": 0},
        {"previous": b""},
        {"deleted_digest": b""},
        {"root": b""},
    ],
)
def test_values_that_contradict_each_other_are_refused(members: dict[str, Any]) -> None:
    tombstone = msgspec.structs.replace(TOMBSTONE, **members)
    with pytest.raises(MalformedError, match="its values contradict each other"):
        decode_tombstone(encode_tombstone(tombstone, SIGNER.seal), verifier_of, what="tombstone")
