"""The home directory: where all state lies, and the opening of its parts when they are needed.

    HOME/home           what this home is: format version, id, account, region (JSON document)
    HOME/lock           flock: one change of the home's structure at a time
    HOME/kms/           key management state (volcrypt.kms)
    HOME/volumes/       records, change maps and, unless placed elsewhere, data (volcrypt.volume)
    HOME/stores/NAME/   snapshot stores on this host (volcrypt.snapshot)
    HOME/work/          cursors of workflows that were begun
    HOME/written/       how much was encrypted under each data key
    HOME/jobs/          snapshots that are being made (operations.jobs)

    RUNTIME/            on tmpfs: token copies, live change maps, control sockets, mount points

How a home is made, and its files are told, is in `home_directory`.
"""

import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar, runtime_checkable

from volcrypt.errors import (
    ConfigurationError,
    InvalidArgumentError,
    NoSuchEntityError,
    ObjectStoreError,
    RecordMissingError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.formats.document import MacSeal
from volcrypt.kms.home import has_kms, keeps_pin, open_kms
from volcrypt.kms.key_stores import NO_CLUSTERS
from volcrypt.kms.lock import SERVING, is_served
from volcrypt.kms.model import DEFAULT_KEY_ALIAS, Caller, VolumeSettings, root_arn
from volcrypt.kms.remote_store import Cluster
from volcrypt.names import ID_RANDOM_BYTES, VolumeId
from volcrypt.operations.daemon_start import daemon_that_listens
from volcrypt.operations.home_directory import (
    locked_file,
    make_runtime_directory,
    read_home_document,
    runtime_directory,
)
from volcrypt.operations.kms_user import kms_has_own_user, socket_of_kms_user
from volcrypt.operations.vault import (
    SOCKET,
    Access,
    Kms,
    RegisterPort,
    Vault,
    no_daemon,
)
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.directory import VolumeDirectory, log_warning

if TYPE_CHECKING:
    from volcrypt.crypto.customer_key import CustomerKey

_AS_ROOT: Final = Access()


@runtime_checkable
class SupportsClose(Protocol):
    def close(self) -> None: ...


Closable = TypeVar("Closable", bound=SupportsClose)


class Home:
    """An initialised home. A context manager; what was opened is closed when it ends.

    The KMS, and with it the token, is opened at first use and not before: `--help` and a failing
    argument never wait for an HSM.

    `account` and `region` are the home's own: volumes and snapshots belong to them. Keys may be
    asked for in another account or region that the home serves (`Access`). `customer_keys` are
    those that were given to this command; they are wiped when it closes the home.
    """

    def __init__(
        self,
        path: Path,
        runtime_root: Path,
        *,
        access: Access = _AS_ROOT,
        pin: "Callable[[bool], bytearray | None]" = lambda _may_ask: None,
        daemon: Callable[[Path, str, str], Vault] = no_daemon,
        clusters: Mapping[str, Cluster] = NO_CLUSTERS,
        warn: Callable[[str], None] = log_warning,
    ) -> None:
        """`pin` gives the token's PIN where the home does not keep it, None where it would have to
        ask somebody and is not to (its argument is False). `daemon` is the client of the process
        that serves the home, by the path of its socket, for an account and a region. `clusters`
        are the tokens of which custom key stores can be made. `warn` is told, a line each, of
        what was found damaged and mended.

        Raises HomeNotInitialisedError, FormatError when HOME/home is damaged, and
        InvalidArgumentError for an account or region that the home does not serve.
        """
        document = read_home_document(path)
        self.path = path.resolve()
        self._runtime_root = runtime_root
        self.runtime = runtime_directory(path, runtime_root)
        self.home_id = document.home_id
        self.account = document.account
        self.region = document.region
        self.access = access
        self.key_region = access.region or document.region
        self._check_served(access)
        self.volumes = VolumeDirectory(self.path / "volumes", warn=warn)
        self.stores_path = self.path / "stores"
        self.work_path = self.path / "work"
        self.jobs_path = self.path / "jobs"
        self.customer_keys: list[CustomerKey] = []
        self.open_stores: dict[str, SnapshotStore | ObjectStoreError] = {}
        self._pin = pin
        self._clusters = clusters
        self._quiet_pin: bytearray | None = None
        self._daemon = daemon
        self._stack = ExitStack()
        self._stack.callback(self.wipe_customer_keys)
        self._vault_stack = self._stack.enter_context(ExitStack())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wipe_customer_keys(self) -> None:
        """For work that goes on for long and has made all use of them."""
        for key in self.customer_keys:
            key.wipe()
        self.customer_keys.clear()

    def _check_served(self, access: Access) -> None:
        if access.other_kms is not None:
            return
        regions = {self.region, *access.served_regions}
        if self.key_region not in regions:
            raise InvalidArgumentError(
                f"this home belongs to region {self.region} and does not serve {self.key_region}",
                hint=f"add {self.key_region!r} to [kms] regions in config.toml",
            )
        account = access.account or self.account
        if account not in {self.account, *access.served_accounts}:
            raise InvalidArgumentError(
                f"this home belongs to account {self.account} and does not serve {account}",
                hint=f"add {account!r} to [kms] accounts in config.toml",
            )

    def check_own_region(self) -> None:
        """Raises InvalidArgumentError when the command is about another region: volumes and
        snapshots of a home are all in its own."""
        if self.key_region != self.region and self.access.other_kms is None:
            raise InvalidArgumentError(
                f"volumes and snapshots of this home belong to region {self.region}, not to "
                f"{self.key_region}"
            )

    @cached_property
    def vault(self) -> Vault:
        """The home's own KMS: in this process, or through the daemon that serves the home."""
        make_runtime_directory(self.runtime, home=self.path)
        daemon = self._daemon_that_listens()
        if daemon is not None:
            return self._client_of(daemon)
        if not has_kms(self.path / "kms"):
            raise RecordMissingError(f"the key catalogue of home {self.path}")
        try:
            vault = self._open_here()
        except TryAgainError:
            daemon = self._daemon_that_listens()
            if daemon is None:
                raise
            return self._client_of(daemon)  # which began in this moment
        with suppress(VolcryptError):
            # What is due now is due later as well; the command's own errors are the command's.
            vault.maintain()
        return vault

    def _open_here(self) -> Vault:
        directory = self.path / "kms"
        pin = None if keeps_pin(directory) else self._quiet_pin or self._pin(True)
        return self._vault_stack.enter_context(
            open_kms(
                directory,
                self.runtime,
                account=self.account,
                region=self.region,
                pin=pin,
                clusters=self._clusters,
            )
        )

    def _client_of(self, daemon: Path) -> Vault:
        client = self._daemon(daemon, self.account, self.region)
        if isinstance(client, SupportsClose):
            self._vault_stack.callback(client.close)
        return client

    def _daemon_that_listens(self) -> Path | None:
        """As `_daemon_socket`, and one that is starting gets the time for it."""
        if kms_has_own_user(self.path):
            return self._daemon_socket()  # systemd listens for it
        return daemon_that_listens(self._daemon_socket)

    def _daemon_socket(self) -> Path | None:
        """Where the process answers that everybody has to go through; None while there is none."""
        if kms_has_own_user(self.path):
            return socket_of_kms_user(self.path, self._runtime_root)
        return self.runtime / SOCKET if is_served(self.path / "kms" / SERVING) else None

    @property
    def is_open(self) -> bool:
        """Whether the vault was opened already."""
        return "vault" in self.__dict__

    @cached_property
    def opens_quietly(self) -> bool:
        """Whether the vault opens without asking a person for the PIN. Raises VolcryptError."""
        if self.is_open or self._daemon_socket() is not None or keeps_pin(self.path / "kms"):
            return True
        self._quiet_pin = self._pin(False)
        return self._quiet_pin is not None

    def rest(self) -> None:
        """Close the vault while there is long work that does not need it, so that nobody waits for
        this process; it is opened again at its next use. Where that would take a person who types
        the PIN it stays open. Nothing that came from `kms` or `vault` may be used afterwards."""
        if not (self.is_open and self.opens_unattended):
            return
        self._vault_stack.close()
        for name in ("vault", "kms"):
            self.__dict__.pop(name, None)

    @property
    def opens_unattended(self) -> bool:
        """Whether another process opens the vault too, with nobody there to ask for the PIN; as
        things are now. Raises VolcryptError."""
        if self._daemon_socket() is not None or keeps_pin(self.path / "kms"):
            return True
        return self._quiet_pin is not None or self._pin(False) is not None

    @property
    def register(self) -> RegisterPort:
        return self.vault.register

    @cached_property
    def kms(self) -> Kms:
        """Where the keys of this command are: in the home's KMS, or in the one of its profile."""
        if self.access.other_kms is not None:
            return self.access.other_kms()
        return self.vault.scope(self.caller.account, self.key_region)

    @property
    def settings_region(self) -> str:
        """The region whose settings this command goes by; another KMS may be in another one."""
        return self.key_region if self.access.other_kms is None else self.region

    def volume_settings(self, region: str | None = None) -> VolumeSettings:
        """What new volumes and copies in a region, `settings_region` when None, are made by. They
        are the home's own, whichever KMS has the keys."""
        return self.vault.volume_settings(self.caller.account, region or self.settings_region)

    @property
    def default_kms_key(self) -> str:
        """The key of volumes and copies for which none is named: the profile's, else the one that
        is set (`volume_settings`), else the service-managed one. Raises ConfigurationError where
        the keys are in another KMS, which has none for volumes, and none is said."""
        named = self.access.default_kms_key
        named = named or self.volume_settings().default_kms_keys.get(self.access.kms_name)
        if named is None and self.access.other_kms is not None:
            raise ConfigurationError(
                "the profile names no default_kms_key, and another KMS has no key for volumes",
                hint="name a key with --kms-key-id, or one for all with 'volcrypt settings set "
                "default-kms-key', or add default_kms_key to the profile in config.toml",
            )
        return named or DEFAULT_KEY_ALIAS

    @cached_property
    def caller(self) -> Caller:
        """The principal of the profile, asking by itself. Raises NoSuchEntityError."""
        account = self.access.account or self.account
        given = self.access.principal
        if given is None:
            return Caller(arn=root_arn(account), account=account)
        arn = given if given.startswith("arn:") else f"arn:aws:iam::{account}:user/{given}"
        found = Caller(arn=arn, account=arn.split(":")[4])
        if found.account not in {self.account, *self.access.served_accounts}:
            raise InvalidArgumentError(f"this home does not serve the account of {arn}")
        if not found.is_root and not self.vault.has_principal(arn):
            raise NoSuchEntityError(
                f"the principal {arn} of the profile does not exist",
                hint="make it with 'volcrypt principal create', as the account root",
            )
        return found

    @cached_property
    def volume_service(self) -> Caller:
        """The same principal, asking through volcrypt's volume service (`kms:ViaService`)."""
        return replace(self.caller, via_service=True)

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the home while its structure changes; raises TryAgainError after half a minute."""
        return self.locked("lock")

    def locked(self, name: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold one lock file of the home; raises TryAgainError after half a minute."""
        return locked_file(self.path / name, what=f"home {self.path}", shared=shared)

    def closing(self, thing: Closable) -> Closable:
        """Close `thing` when the home is closed."""
        self._stack.callback(thing.close)
        return thing

    def record_seal(self, volume_id: VolumeId) -> MacSeal:
        """Seals the record of one volume."""
        return MacSeal(self.vault.derive_home_key(b"volcrypt volume record\0" + volume_id.encode()))

    def change_map_key(self, volume_id: VolumeId) -> bytearray:
        """Seals the clean change map of one volume; the process that serves it is given this."""
        return self.vault.derive_home_key(b"volcrypt change map\0" + volume_id.encode())

    def live_map_path(self, volume_id: VolumeId) -> Path:
        """The change map of an open volume, on tmpfs."""
        return self.runtime / f"{volume_id}.map"

    def random_id_bytes(self) -> bytes:
        return secrets.token_bytes(ID_RANDOM_BYTES)
