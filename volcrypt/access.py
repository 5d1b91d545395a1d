"""From settings to plain values that `operations` takes: as whom to act, and where the keys are.

For commands, and for processes that are clients of the home beside them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from volcrypt.errors import ConfigurationError
from volcrypt.kms.model import HOME_KMS
from volcrypt.kms.remote_store import Cluster
from volcrypt.operations.home import Home
from volcrypt.operations.vault import Access, Kms, Vault
from volcrypt.pin_source import quiet_pin
from volcrypt.settings import (
    AWS_KMS,
    OWN_KMS,
    Profile,
    Settings,
    profile_of,
    read_settings,
    runtime_root,
)

UNATTENDED_SECONDS = 8.0
"""How long a process that nobody waits for lets a KMS think, before it says that there is no
answer."""


def open_home_unattended(
    path: Path, *, profile: str, region: str | None, patience: float = UNATTENDED_SECONDS
) -> Home:
    """The home for a process that can ask nobody: no prompt, no program that gives the PIN, and no
    long wait for a KMS: `patience` is that with another one, in seconds. Settings are read anew.
    Raises what `Home` and `read_settings` raise.
    """
    settings = read_settings(path)
    return Home(
        path,
        runtime_root(),
        access=access_of(settings, profile_of(settings, profile), region=region, patience=patience),
        daemon=partial(daemon_of_the_home, patience=UNATTENDED_SECONDS),
        clusters=clusters_of(settings, path),
        pin=lambda _may_ask: quiet_pin(settings.kms, path),
    )


def clusters_of(settings: Settings, home: Path) -> dict[str, Cluster]:
    """The tokens of which custom key stores can be made; relative paths start at the home.

    Raises ConfigurationError for a trust anchor that cannot be read.
    """
    return {
        name: Cluster(
            module=home / cluster.module,
            token_label=cluster.token_label,
            softhsm_configuration=None
            if cluster.softhsm_configuration is None
            else home / cluster.softhsm_configuration,
            trust_anchor_certificate=None
            if cluster.trust_anchor is None
            else _read_text(home / cluster.trust_anchor),
        )
        for name, cluster in settings.kms.clusters.items()
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the trust anchor {path}") from error


def access_of(
    settings: Settings, profile: Profile, *, region: str | None, patience: float | None = None
) -> Access:
    """What a profile says, in plain values; `region` goes before its own. `patience` are the
    seconds that another KMS has for an answer, where that is less than usual."""
    return Access(
        region=region or profile.region,
        account=profile.account,
        principal=profile.principal,
        default_kms_key=profile.default_kms_key,
        grantee=profile.grantee,
        served_regions=frozenset(settings.kms.regions),
        served_accounts=frozenset(settings.kms.accounts),
        other_kms=_other_kms(profile, region or profile.region, patience),
        kms_name=HOME_KMS
        if profile.kms == OWN_KMS
        else f"{profile.kms} {region or profile.region}",
    )


def _other_kms(
    profile: Profile, region: str | None, patience: float | None
) -> Callable[[], Kms] | None:
    if profile.kms == OWN_KMS:
        return None

    def open_other() -> Kms:
        from volcrypt.wire.remote import RemoteEndpoint, RemoteKms

        if region is None:
            raise ConfigurationError(
                f"the profile of the KMS {profile.kms} names no region",
                hint="add region to it in config.toml, or give --region",
            )
        endpoint = RemoteEndpoint(
            region=region,
            url=None if profile.kms == AWS_KMS else profile.kms,
            credentials_profile=profile.credentials,
            patience_seconds=patience,
        )
        return RemoteKms(endpoint)

    return open_other


def daemon_of_the_home(
    socket: Path, account: str, region: str, *, patience: float | None = None
) -> Vault:
    """The client of the process that serves the home."""
    from volcrypt.wire.home_client import PATIENCE_SECONDS, HomeChannel, HomeClient

    channel = HomeChannel(socket, patience_seconds=patience or PATIENCE_SECONDS)
    return HomeClient(channel, account=account, region=region)
