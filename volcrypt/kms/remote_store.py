"""The key material of a custom key store, through the process that holds its token.

Every call is one exchange over the socket (`key_store_messages`). A process that died, does not
answer in time, or says that its token is gone, is done with: it is ended, and the calls that follow
fail as well. Whoever wants to go on starts another one.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.confinement import WIPING_TUNABLES
from volcrypt.errors import FormatError, HsmUnavailableError
from volcrypt.kms.frames import receive_frame, send_frame
from volcrypt.kms.key_store_messages import (
    Answer,
    Call,
    Decrypt,
    Encrypt,
    Failure,
    Generate,
    Generation,
    Open,
    Random,
    Reply,
    Retire,
    Rewrap,
)
from volcrypt.kms.key_store_process import KINDS
from volcrypt.kms.keystore import MaterialStore
from volcrypt.kms.model import WrappedMaterial

OPEN_SECONDS: Final = 60.0
CALL_SECONDS: Final = 30.0
"""How long a module may take: to load and log in, and for one call."""
END_SECONDS: Final = 2.0
"""How long it may take to log out."""

_MODULE: Final = "volcrypt.kms.key_store_process"
_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A further token, as the administrator configures it under a CloudHSM cluster id; no request
    names a module.

    `softhsm_configuration` is SoftHSM's file where the module is SoftHSM. With a
    `trust_anchor_certificate` a key store can only be made by who knows it.
    """

    module: Path
    token_label: str
    softhsm_configuration: Path | None = None
    trust_anchor_certificate: str | None = None


class RemoteStore:
    """MaterialStore on another token. For several threads, which take turns."""

    def __init__(self, cluster: Cluster, *, prefix: str, pin: bytearray, make_key: bool) -> None:
        """Start the process and log in; wipes `pin`.

        Raises TokenMissingError, WrongPinError, PinLockedError, IntegrityError when the token lacks
        the wrapping key and `make_key` is False, HsmUnavailableError.
        """
        self._mutex = threading.Lock()
        self._is_done = False
        self._call_seconds = CALL_SECONDS
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", _MODULE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ}
                | {"GLIBC_TUNABLES": WIPING_TUNABLES},
            )
        configuration = cluster.softhsm_configuration
        call = Open(
            module=os.fspath(cluster.module),
            label=cluster.token_label,
            configuration=None if configuration is None else os.fspath(configuration),
            prefix=prefix,
            make_key=make_key,
            pin=pin,
        )
        try:
            self._exchange(call, seconds=OPEN_SECONDS)
        except BaseException:
            self.close()
            raise
        finally:
            pin[:] = bytes(len(pin))

    def __repr__(self) -> str:
        return f"<RemoteStore in process {self._process.pid}>"

    @property
    def is_done(self) -> bool:
        """Whether it is of no use any more."""
        return self._is_done

    def close(self) -> None:
        with self._mutex:
            self._end(patience_seconds=END_SECONDS)

    def generate_material(self) -> WrappedMaterial:
        return _materials(self._exchange(Generate()), count=1)[0]

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        return bytes(_data(self._exchange(Encrypt(material, plaintext, aad))))

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        return _data(self._exchange(Decrypt(material, sealed, aad)))

    def random(self, count: int) -> bytearray:
        return _data(self._exchange(Random(count)))

    def rewrap(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        # About 1 ms each; a token behind a network may take longer.
        seconds = self._call_seconds + len(materials)
        answer = self._exchange(Rewrap(list(materials)), seconds=seconds)
        return _materials(answer, count=len(materials))

    def generation(self) -> int:
        return self._exchange(Generation()).number or 0

    def retire(self, *, older_than: int) -> None:
        self._exchange(Retire(older_than))

    def _exchange(self, call: Call, *, seconds: float | None = None) -> Answer:
        with self._mutex:
            if self._is_done:
                raise HsmUnavailableError("the process of the key store has ended")
            try:
                reply = self._converse(call, self._call_seconds if seconds is None else seconds)
            except (OSError, FormatError, msgspec.DecodeError) as error:
                self._end(patience_seconds=0)
                raise HsmUnavailableError("the process of the key store died") from error
            if isinstance(reply, Answer):
                return reply
            failure = KINDS.get(reply.kind, HsmUnavailableError)(reply.message)
            if isinstance(failure, HsmUnavailableError):
                self._end(patience_seconds=END_SECONDS)
            raise failure

    def _converse(self, call: Call, seconds: float) -> Reply:
        """Raises OSError when the process is gone or does not answer in time."""
        self._socket.settimeout(seconds)
        send_frame(self._socket, bytearray(msgspec.msgpack.encode(call)))
        frame = receive_frame(self._socket)
        if frame is None:
            raise ConnectionResetError
        try:
            reply: Reply = msgspec.msgpack.decode(frame, type=Answer | Failure)
            return reply
        finally:
            frame[:] = bytes(len(frame))

    def _end(self, *, patience_seconds: float) -> None:
        self._is_done = True
        with suppress(OSError):
            self._socket.close()
        try:
            # It logs out and ends by itself once its socket is closed; unless it hangs.
            self._process.wait(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _conforms(store: RemoteStore) -> MaterialStore:
    return store


def _data(answer: Answer) -> bytearray:
    if answer.data is None:
        raise HsmUnavailableError("the process of the key store gave another answer")
    return answer.data


def _materials(answer: Answer, *, count: int) -> list[WrappedMaterial]:
    if answer.materials is None or len(answer.materials) != count:
        raise HsmUnavailableError("the process of the key store gave another answer")
    return answer.materials
