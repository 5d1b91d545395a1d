"""A data key that comes through a pipe to a process that serves already."""

import os
from typing import Final

import trio

from volcrypt.crypto.data_key import DATA_KEY_BYTES, DataKey
from volcrypt.errors import InvalidArgumentError

KEY_SECONDS: Final = 10.0
"""So long may a key be on its way through a pipe."""


async def receive_key(pipe: int) -> DataKey:
    """What comes through a pipe, which is closed. Raises InvalidArgumentError."""
    material = bytearray(DATA_KEY_BYTES)
    view = memoryview(material)
    try:
        os.set_blocking(pipe, False)
        with trio.fail_after(KEY_SECONDS):
            while view:
                await trio.lowlevel.wait_readable(pipe)
                count = os.readv(pipe, [view])
                if not count:
                    raise InvalidArgumentError("no data key came")
                view = view[count:]
        view.release()
        return DataKey(material)
    except BaseException as error:
        material[:] = bytes(len(material))
        if isinstance(error, OSError | ValueError | trio.TooSlowError):
            raise InvalidArgumentError("no data key came") from error
        raise
    finally:
        os.close(pipe)
