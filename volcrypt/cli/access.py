"""From settings to an open home: as whom a command acts, which KMS has its keys, where the PIN is.

The one place where profiles become the plain values that `operations` takes.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from volcrypt.cli.pin import find_pin
from volcrypt.cli.session import Session
from volcrypt.errors import ConfigurationError
from volcrypt.kms.remote_store import Cluster
from volcrypt.operations.home import Home
from volcrypt.operations.vault import Access, Kms, Vault
from volcrypt.settings import AWS_KMS, OWN_KMS, Profile, Settings, profile_of, runtime_root

if TYPE_CHECKING:
    from collections.abc import Callable


def open_home(session: Session) -> Home:
    """The home of a run, as its profile says; opens no KMS yet.

    Raises HomeNotInitialisedError, ConfigurationError, InvalidArgumentError.
    """
    profile = profile_of(session.settings, session.profile)
    return Home(
        session.home_path,
        runtime_root(),
        access=access_of(session.settings, profile, region=session.region),
        daemon=_daemon_of_the_home,
        clusters=clusters_of(session.settings, session.home_path),
        pin=partial(find_pin, session.settings.kms, session.home_path),
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


def other_kms_of(session: Session) -> "Callable[[], Kms] | None":
    """What opens the KMS that the profile names, if it is not the home's."""
    profile = profile_of(session.settings, session.profile)
    return access_of(session.settings, profile, region=session.region).other_kms


def access_of(settings: Settings, profile: Profile, *, region: str | None) -> Access:
    """What a profile says, in plain values; `region` goes before its own."""
    return Access(
        region=region or profile.region,
        account=profile.account,
        principal=profile.principal,
        default_kms_key=profile.default_kms_key,
        grantee=profile.grantee,
        served_regions=frozenset(settings.kms.regions),
        served_accounts=frozenset(settings.kms.accounts),
        other_kms=_other_kms(profile, region or profile.region),
    )


def _other_kms(profile: Profile, region: str | None) -> "Callable[[], Kms] | None":
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
        )
        return RemoteKms(endpoint)

    return open_other


def _daemon_of_the_home(socket: Path, account: str, region: str) -> Vault:
    from volcrypt.wire.home_client import HomeChannel, HomeClient

    return HomeClient(HomeChannel(socket), account=account, region=region)
