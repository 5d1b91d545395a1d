"""Whether a decoder keeps its word on some bytes; all decoders there are."""

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.fuzz.decoders import Decoder
from tests.fuzz.mutation import mutate
from tests.fuzz.spoken import SPOKEN_DECODERS
from tests.fuzz.stored import STORED_DECODERS
from tests.fuzz.typed import TYPED_DECODERS

DECODERS: Final = {**STORED_DECODERS, **SPOKEN_DECODERS, **TYPED_DECODERS}
assert len(DECODERS) == len(STORED_DECODERS) + len(SPOKEN_DECODERS) + len(TYPED_DECODERS)


def changed(decoder: Decoder, chance: random.Random) -> tuple[bytes, bool]:
    """Bytes to be shown to a decoder, and whether somebody without the seal's key made them."""
    data = mutate(decoder.seeds, chance)
    if decoder.reseal is None or chance.random() < 0.2:
        return data, decoder.sealed and data not in decoder.seeds
    return decoder.reseal(data), False


def check(decoder: Decoder, data: bytes, *, is_forged: bool) -> bool:
    """Whether the bytes were taken. Fails with what else came of them than was promised."""
    try:
        decoder.decode(data)
    except decoder.refusals as error:
        str(error).encode(errors="surrogateescape")  # what a terminal or log is given
        return False
    assert not is_forged, f"taken, although nobody sealed it: {data!r}"
    return True


def seconds_of_chance(seconds: float, seed: int) -> Iterator[random.Random]:
    """One source of chance after the other, each of which a number repeats, for so long."""
    end = time.monotonic() + seconds
    number = seed
    while time.monotonic() < end:
        yield random.Random(number)
        number += 1


@dataclass(slots=True)
class Tally:
    """What came of documents that a decoder was shown."""

    shown: int = 0
    taken: int = 0
    slowest_seconds: float = 0.0
    """Of the processor, for one document."""
    slowest: bytes = b""


def run(decoder: Decoder, chances: Iterable[random.Random]) -> Tally:
    """Shows a decoder one document for each source of chance."""
    tally = Tally()
    for chance in chances:
        data, is_forged = changed(decoder, chance)
        began = time.process_time()
        try:
            tally.taken += check(decoder, data, is_forged=is_forged)
        except BaseException as error:
            error.add_note(f"of {data!r}")
            raise
        seconds = time.process_time() - began
        if seconds > tally.slowest_seconds:
            tally.slowest_seconds, tally.slowest = seconds, data
        tally.shown += 1
    return tally
