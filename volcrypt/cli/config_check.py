"""Whether what the configuration file names is there: files, and what the home has. Asks no KMS."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from volcrypt.errors import ConfigurationError, KmsError, VolcryptError
from volcrypt.operations.home_directory import HomeDocument, read_home_document
from volcrypt.operations.suggestions import has_key, has_principal
from volcrypt.pin_source import check_pin_file
from volcrypt.settings import OWN_KMS, Problem, Profile, Settings


@dataclass
class Checked:
    """What is wrong, and in words what could not be looked at or is worth knowing."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_settings(settings: Settings, home: Path) -> Checked:
    """Look at all that the settings of this home name, without any key, PIN or network."""
    checked = Checked(problems=list(_file_problems(settings, home)))
    others = [name for name, profile in settings.profiles.items() if profile.kms != OWN_KMS]
    for name in others:
        profile = settings.profiles[name]
        if profile.region is None:
            checked.notes.append(
                f"profiles.{name} names no region, which its KMS needs: every command wants "
                "--region"
            )
        checked.notes.append(
            f"profiles.{name}: the KMS {profile.kms} was not asked: nobody knows yet whether it "
            "answers, takes the credentials and has the keys"
        )
    own = {name: each for name, each in settings.profiles.items() if name not in others}
    if own:
        _check_own(own, settings, home, checked)
    return checked


def _file_problems(settings: Settings, home: Path) -> Iterator[Problem]:
    if settings.kms.pin_file is not None:
        try:
            check_pin_file(home / settings.kms.pin_file)
        except ConfigurationError as error:
            yield Problem(("kms", "pin_file"), str(error))
    for name, cluster in settings.kms.clusters.items():
        for what, path in (
            ("module", cluster.module),
            ("softhsm_configuration", cluster.softhsm_configuration),
            ("trust_anchor", cluster.trust_anchor),
        ):
            if path is not None and not (home / path).is_file():
                yield Problem(("kms", "clusters", name, what), f"there is no file {path}")


def _check_own(
    profiles: dict[str, Profile], settings: Settings, home: Path, checked: Checked
) -> None:
    """Profiles whose keys are in the home's own KMS."""
    unseen = "regions, accounts, principals and keys of profiles were not looked at"
    try:
        document = read_home_document(home)
    except VolcryptError as error:
        checked.notes.append(f"{unseen}: {error}")
        return
    regions = {document.region, *settings.kms.regions}
    accounts = {document.account, *settings.kms.accounts}
    for name, profile in profiles.items():
        path = ("profiles", name)
        if profile.region is not None and profile.region not in regions:
            text = f"this home serves {_words(regions)}; others stand in [kms] regions"
            checked.problems.append(Problem((*path, "region"), text))
        if profile.account is not None and profile.account not in accounts:
            text = f"this home serves {_words(accounts)}; others stand in [kms] accounts"
            checked.problems.append(Problem((*path, "account"), text))
    try:
        for name, profile in profiles.items():
            checked.problems += _missing(("profiles", name), profile, document, accounts, home)
    except OSError as error:
        checked.notes.append(
            f"principals and keys of profiles were not looked at: the key catalogue cannot be "
            f"read ({error.strerror or error})"
        )


def _missing(
    path: tuple[str, ...],
    profile: Profile,
    document: HomeDocument,
    accounts: set[str],
    home: Path,
) -> Iterator[Problem]:
    """Principal and key, looked for in the catalogue as it lies there. Raises OSError."""
    account = profile.account or document.account
    if profile.principal is not None:
        arn = profile.principal
        if not arn.startswith("arn:"):
            arn = f"arn:aws:iam::{account}:user/{arn}"
        account = arn.split(":")[4]
        if account not in accounts:
            yield Problem((*path, "principal"), f"this home does not serve the account of {arn}")
        elif not arn.endswith(f"::{account}:root") and not has_principal(home, arn):
            text = f"{arn} does not exist; 'volcrypt principal create' makes it"
            yield Problem((*path, "principal"), text)
    key = profile.default_kms_key
    if key is not None:
        try:
            found = has_key(home, key, account=account, region=profile.region or document.region)
        except KmsError as error:
            yield Problem((*path, "default_kms_key"), f"{key!r}: {error}")
            return
        if not found:
            yield Problem((*path, "default_kms_key"), f"{key} does not exist in this home")


def _words(names: set[str]) -> str:
    return " and ".join(sorted(names))
