"""What a monitoring system asks of the KMS: how many keys are in which state, and whether the HSM
answers. Nothing of this is a request of anybody, and nothing is recorded."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import VolcryptError
from volcrypt.kms.keyring import KEYS, decode_key, is_connected
from volcrypt.kms.lifecycle import current_state
from volcrypt.kms.scope import Scope

_ALIVE_INFO: Final = b"volcrypt alive 1\0"


@dataclass(frozen=True, slots=True)
class CensusPage:
    """States of some of the keys; `after` is where the next page begins, None at the end."""

    states: Counter[str]
    after: str | None


class Census(Scope):
    """The part of the service that counts."""

    def count_states(self, *, after: str = "", limit: int) -> CensusPage:
        """Of up to `limit` keys behind the one that `after` stands for, in all accounts and regions
        of the home."""
        now = self._clock()
        states: Counter[str] = Counter()
        with self._catalog.reading() as view:
            items = view.items(KEYS, after=after, limit=limit)
            for item in items:
                key = decode_key(item)
                state = current_state(key, now=now, is_connected=is_connected(view, key))
                states[state.value] += 1
        return CensusPage(states, items[-1].id if len(items) == limit else None)

    def hsm_answers(self) -> bool:
        """Whether the home's HSM still works with a key that is in it."""
        try:
            derived = self._keystore.derive(_ALIVE_INFO)
        except VolcryptError:
            return False
        derived[:] = bytes(len(derived))
        return True
