"""The home of one run of the command line."""

import sys
from collections.abc import Callable
from functools import partial

from volcrypt.access import access_of, clusters_of, daemon_of_the_home
from volcrypt.cli.pin import find_pin
from volcrypt.cli.session import Session
from volcrypt.operations.home import Home
from volcrypt.operations.vault import Kms
from volcrypt.settings import profile_of, runtime_root


def open_home(session: Session) -> Home:
    """The home of a run, as its profile says; opens no KMS yet.

    Raises HomeNotInitialisedError, ConfigurationError, InvalidArgumentError.
    """
    profile = profile_of(session.settings, session.profile)
    return Home(
        session.home_path,
        runtime_root(),
        access=access_of(session.settings, profile, region=session.region),
        daemon=daemon_of_the_home,
        clusters=clusters_of(session.settings, session.home_path),
        pin=partial(find_pin, session.settings.kms, session.home_path),
        warn=_warn,
    )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def other_kms_of(session: Session) -> Callable[[], Kms] | None:
    """What opens the KMS that the profile names, if it is not the home's."""
    profile = profile_of(session.settings, session.profile)
    return access_of(session.settings, profile, region=session.region).other_kms
