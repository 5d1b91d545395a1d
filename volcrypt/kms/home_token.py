"""The token of a home as a KeyStore: it goes and comes back, and its wrapping key changes.

A *connection* is a private copy of the master (`token`), the library on it, and a login. It ends
when a call fails because the token or the library is gone, and when the master is another one than
it was made from: another process has made or destroyed a wrapping key. The next call makes a new
connection, without a restart of the process; for that the PIN is held (`pin`). A PIN that was
refused once is not tried again.

The token itself is changed on a fresh copy of the master, of which nobody else knows, with nothing
else open; the copy becomes the master before the change is relied on:

    rewrap    a new wrapping key, beside the old ones; then the materials under it
    retire    the old wrapping keys destroyed

Both need the home's writer lock, so one process at a time changes the master. A process that makes
material holds that lock too, and looks at the master first: so it never wraps under a generation
that was retired.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from volcrypt.errors import HsmUnavailableError, WrongPinError
from volcrypt.kms.keystore import KeyStore, Sealing
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.pin import HeldPin
from volcrypt.kms.pkcs11 import Pkcs11KeyStore
from volcrypt.kms.pkcs11_session import LOCK, logged_in, softhsm_token
from volcrypt.kms.token import configuration_of, master_identity, private_copy, save_master


class HomeToken(Sealing):
    """KeyStore on the SoftHSM token whose master lies in a directory."""

    def __init__(self, master: Path, runtime: Path, pin: HeldPin) -> None:
        self._master = master
        self._runtime = runtime
        self._pin = pin
        self._store: Pkcs11KeyStore | None = None
        self._identity: tuple[int, ...] | None = None
        self._connection = ExitStack()
        self._refusal: str | None = None
        self._successors: dict[WrappedMaterial, WrappedMaterial] = {}

    def __repr__(self) -> str:
        return f"<HomeToken {self._master}>"

    def connect(self) -> None:
        """Log in now instead of at the first call. Raises WrongPinError, RecordMissingError,
        FormatError, SealError, IntegrityError, NoSpaceError, HsmUnavailableError; so does every
        other method when it has to log in again."""
        with LOCK:
            self._connected()

    def close(self) -> None:
        with LOCK:
            self._disconnect()

    def generate_material(self) -> WrappedMaterial:
        with self._using() as store:
            return store.generate_material()

    def import_material(self, plaintext: bytearray) -> WrappedMaterial:
        with self._using() as store:
            return store.import_material(plaintext)

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        with self._using() as store:
            return store.encrypt(self._newest(material), plaintext=plaintext, aad=aad)

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        with self._using() as store:
            return store.decrypt(self._newest(material), sealed=sealed, aad=aad)

    def mac(self, data: bytes) -> bytes:
        with self._using() as store:
            return store.mac(data)

    def derive(self, info: bytes) -> bytearray:
        with self._using() as store:
            return store.derive(info)

    def random(self, count: int) -> bytearray:
        with self._using() as store:
            return store.random(count)

    def generation(self) -> int:
        with self._using() as store:
            return store.generation()

    def rewrap(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        with LOCK:
            self._change(lambda store: store.add_generation())
            with self._using() as store:
                rewrapped = store.rewrapped(materials)
            self._successors = dict(zip(materials, rewrapped, strict=True))
        return rewrapped

    def retire(self, *, older_than: int) -> None:
        with LOCK:
            self._change(lambda store: store.destroy_generations(older_than=older_than))

    def _newest(self, material: WrappedMaterial) -> WrappedMaterial:
        """A request may have read its key just before this process rewrapped it."""
        return self._successors.get(material, material)

    @contextmanager
    def _using(self) -> Iterator[Pkcs11KeyStore]:
        """The store, for one call; a call that finds it dead is the last one on this connection."""
        with LOCK:
            store = self._connected()
            try:
                yield store
            except HsmUnavailableError:
                self._disconnect()
                raise

    def _connected(self) -> Pkcs11KeyStore:
        identity = master_identity(self._master)
        # A master that cannot be looked at just now changes nothing for who is logged in.
        if self._store is not None and identity not in (None, self._identity):
            self._disconnect()
        if self._store is None:
            if self._refusal is not None:
                raise WrongPinError(self._refusal)
            try:
                self._store = self._connection.enter_context(self._opened_copy())
            except WrongPinError as error:
                self._refusal = str(error)
                raise
            self._identity = identity
        return self._store

    def _disconnect(self) -> None:
        self._store = None
        self._connection.close()

    def _change(self, action: Callable[[Pkcs11KeyStore], None]) -> None:
        """Change the token: in a fresh copy, which is closed and becomes the master."""
        self._disconnect()
        with private_copy(self._runtime, master=self._master) as copy:
            with logged_in(softhsm_token(configuration_of(copy)), self._pin) as session:
                action(Pkcs11KeyStore(session))
            save_master(self._master, copy)

    @contextmanager
    def _opened_copy(self) -> Iterator[Pkcs11KeyStore]:
        with (
            private_copy(self._runtime, master=self._master) as copy,
            logged_in(softhsm_token(configuration_of(copy)), self._pin) as session,
        ):
            yield Pkcs11KeyStore(session)


def _conforms(token: HomeToken) -> KeyStore:
    return token


@contextmanager
def open_home_token(master: Path, runtime: Path, pin: bytearray) -> Iterator[HomeToken]:
    """The token of a home, logged in; the PIN is copied, and the copy wiped at the end.

    Raises InvalidArgumentError for a PIN that no token takes, and what `HomeToken.connect` does.
    """
    with HeldPin(pin) as held:
        token = HomeToken(master, runtime, held)
        try:
            token.connect()
            yield token
        finally:
            token.close()
