"""`volcrypt doctor`: what of this host and home keeps volcrypt from working, and how to mend it."""

import os
import resource
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from volcrypt.access import clusters_of, open_home_unattended
from volcrypt.cli.config_check import check_settings
from volcrypt.cli.exits import Exit
from volcrypt.cli.session import Command, JsonValue, Session, pass_session, print_paragraph
from volcrypt.confinement import CAP_IPC_LOCK, has_capability
from volcrypt.errors import (
    ConfigurationError,
    ConfigurationFileError,
    FormatError,
    IntegrityError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.operations.findings import Finding, State, examine, note, ok, problem_of, problems_of
from volcrypt.pin_source import PIN_CREDENTIAL
from volcrypt.settings import CONFIG_FILE, Settings, problems_in_file, runtime_root

if TYPE_CHECKING:
    from volcrypt.operations.doctor_host import Host
    from volcrypt.operations.findings import Check
    from volcrypt.operations.home import Home

DOCUMENT_VERSION: Final = 1
_KMS_SECONDS: Final = 2.0
"""Twice that is for the KMS of the profile, with somebody waiting."""
_INDENT: Final = " " * 9
"""As wide as a state and what follows it."""


@click.command(cls=Command)
@click.option("--all", "show_all", is_flag=True, help="Also what is in order.")
@pass_session
def doctor(session: Session, show_all: bool) -> int:
    """Look whether this host and home are as volcrypt needs them, and say how to mend what is not.

    Asks for no PIN, writes to no store, and needs neither root nor a home: what cannot be looked at
    for that is said. A problem keeps something from working, or from being as safe as it is said
    to be: then the exit code is 8. A note is worth knowing.
    """
    from volcrypt.operations.doctor_host import Host

    findings = list(examine(_checks(session, Host())))
    problems = sum(each.state is State.PROBLEM for each in findings)
    notes = sum(each.state is State.NOTE for each in findings)
    document: JsonValue = {
        "Version": DOCUMENT_VERSION,
        "Home": str(session.home_path),
        "Problems": problems,
        "Notes": notes,
        "Findings": [
            {
                "Check": each.check,
                "State": each.state.value,
                "Text": each.text,
                "Mend": each.mend,
            }
            for each in findings
        ],
    }

    def text() -> None:
        _print(each for each in findings if show_all or each.state is not State.OK)
        fine = sum(each.state is State.OK for each in findings)
        count = ", ".join(
            f"{n} {what}{'s' * (n != 1)}" for n, what in ((problems, "problem"), (notes, "note"))
        )
        print(f"{count}, {fine} in order")

    session.show(document, text)
    return Exit.FINDING if problems else Exit.DONE


def _print(findings: Iterable[Finding]) -> None:
    for each in findings:
        print_paragraph(f"{each.state.value:<7}  {each.check}: {each.text}", indent=_INDENT)
        if each.mend:
            print_paragraph(f"{_INDENT}mend: {each.mend}", indent=_INDENT)


def _checks(session: Session, host: "Host") -> Iterator[tuple[str, "Check"]]:
    """All checks, one after the other: a later one is not made before the earlier are done."""
    yield from _host_checks(session.home_path, host)
    settings = Settings()
    try:
        settings = session.settings
    except ConfigurationError as error:
        wrong = list(problems_of("configuration", error, f"edit {session.home_path / CONFIG_FILE}"))
        yield "configuration", lambda: wrong
    else:
        yield "configuration", lambda: _check_configuration(session, settings)
    yield from _home_checks(session, settings, host)


def _host_checks(home: Path, host: "Host") -> Iterator[tuple[str, "Check"]]:
    from volcrypt.operations import doctor_clock, doctor_host, doctor_memory
    from volcrypt.operations.audit import last_record_time

    locked_bytes, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    may_lock = has_capability(CAP_IPC_LOCK)
    locks_memory = doctor_memory.is_memory_lockable(
        host, limit_bytes=locked_bytes, may_lock=may_lock
    )
    yield "kernel", lambda: doctor_host.check_kernel(host)
    yield "fuse", lambda: doctor_host.check_fuse(host)
    yield "loop", lambda: doctor_host.check_loop(host)
    yield "programs", lambda: doctor_host.check_programs(host)
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "limits", lambda: doctor_host.check_limits(host, open_files=open_files)
    yield (
        "memory lock",
        lambda: doctor_memory.check_memory_lock(host, limit_bytes=locked_bytes, may_lock=may_lock),
    )
    yield "swap", lambda: doctor_memory.check_swap(host, locks_memory=locks_memory)
    core_bytes, _ = resource.getrlimit(resource.RLIMIT_CORE)
    yield "core dumps", lambda: doctor_memory.check_core_dumps(host, limit_bytes=core_bytes)
    yield (
        "clock",
        lambda: doctor_clock.check_clock(
            now=time.time(),
            uptime=time.clock_gettime(time.CLOCK_BOOTTIME),
            is_synchronised=doctor_clock.clock_is_synchronised(),
            last_record=last_record_time(home),
        ),
    )


def _check_configuration(session: Session, settings: Settings) -> Iterator[Finding]:
    path = session.home_path / CONFIG_FILE
    checked = check_settings(settings, session.home_path)
    if checked.problems:
        wrong = problems_in_file(session.home_path, checked.problems)
        yield from problems_of("configuration", wrong, f"edit {path}")
        return
    yield ok("configuration", f"{path} is {'in order' if path.exists() else 'not there'}")


def _home_checks(
    session: Session, settings: Settings, host: "Host"
) -> Iterator[tuple[str, "Check"]]:
    from volcrypt.operations import doctor_home
    from volcrypt.operations.home_directory import runtime_directory
    from volcrypt.volume.mountpoint import mounts

    path = session.home_path
    try:
        root = runtime_root()
    except ConfigurationError as error:
        no_runtime = problem_of("runtime", error)
        yield "runtime", lambda: [no_runtime]
        root = None
    if root is not None:
        yield "runtime", partial(doctor_home.check_runtime, host, root)
        yield "leftovers", partial(_check_abandoned, root)
    home, why_not = _open(session)
    if home is None:
        assert why_not is not None
        yield "home", lambda: [why_not]
        if root is not None:
            yield "hsm", partial(_check_module_alone, runtime_directory(path, root))
        yield "leftovers", lambda: doctor_home.check_leftovers(None, None, mounts())
        return
    with home:
        yield (
            "home",
            lambda: doctor_home.check_directories(home.path, config_file=path / CONFIG_FILE),
        )
        yield (
            "hsm",
            lambda: doctor_home.check_home_token(home.path / "kms" / "token", home.runtime),
        )
        validated = {
            name: cluster.validated
            for name, cluster in settings.kms.clusters.items()
            if cluster.validated is not None
        }
        yield (
            "hsm",
            lambda: doctor_home.check_clusters(clusters_of(settings, path), validated),
        )
        yield (
            "pin",
            partial(
                doctor_home.check_pin,
                path,
                is_configured=_has_pin_source(settings),
                find_creds=host.find_program("systemd-creds"),
                has_tpm=host.path("/dev/tpmrm0").exists(),
            ),
        )
        yield (
            "leftovers",
            lambda: doctor_home.check_leftovers(home.path, home.runtime, mounts()),
        )
        yield from _key_checks(home)


def _check_abandoned(root: Path) -> Iterator[Finding]:
    from volcrypt.operations.doctor_home import check_abandoned
    from volcrypt.volume.mountpoint import mounts

    yield from check_abandoned(root, mounts())


def _check_module_alone(runtime: Path) -> Iterator[Finding]:
    """Where no home can be opened, in a directory of its own beside `runtime`."""
    from volcrypt.operations.doctor_home import check_home_token

    runtime.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{runtime.name}-", dir=runtime.parent) as directory:
        yield from check_home_token(None, Path(directory))


def _open(session: Session) -> "tuple[Home | None, Finding | None]":
    """The home, whose KMS is not opened yet; or why there is none to look at."""
    path = session.home_path
    try:
        # Asked for first: to who has no home it is no matter that it could not be opened.
        if not (path / "home").exists() and not (path / "kms").exists():
            way = f"volcrypt --home {shlex.quote(str(path))} init"
            return None, note("home", f"there is none at {path}", way)
        home = open_home_unattended(
            path, profile=session.profile, region=session.region, patience=_KMS_SECONDS
        )
    except ConfigurationFileError:  # which was told
        return None, note("home", f"{path} was not looked at, since its configuration is wrong")
    except (VolcryptError, OSError) as error:
        return None, problem_of("home", error)
    return home, None


def _has_pin_source(settings: Settings) -> bool:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return (
        settings.kms.pin_file is not None
        or settings.kms.pin_command is not None
        or (credentials is not None and (Path(credentials) / PIN_CREDENTIAL).exists())
    )


def _key_checks(home: "Home") -> Iterator[tuple[str, "Check"]]:
    from volcrypt.operations import doctor_home, doctor_keys
    from volcrypt.operations.doctor_home import RESTORE

    # Only where volumes are not looked at, who have a say in what room there is.
    space: tuple[str, Check] = ("space", lambda: doctor_home.check_space(home.path))
    try:
        can_open = home.opens_quietly
    except (VolcryptError, OSError) as error:
        wrong = problem_of("kms", error)
        yield "kms", lambda: [wrong]
        yield space
        return
    if not can_open:
        unseen = note(
            "kms",
            "keys, volumes and stores were not looked at: that needs the PIN",
            "start 'volcrypt kms serve' first, which asks for it",
        )
        yield "kms", lambda: [unseen]
        yield space
        return
    failed: list[Finding] = []
    unanswered: list[Finding] = []  # of the KMS of the profile, which is not asked again then

    def check_kms() -> Iterator[Finding]:
        try:
            for found in doctor_keys.check_kms(home):
                if found.state is State.PROBLEM:
                    unanswered.append(found)
                yield found
        except TryAgainError as error:
            failed.append(problem_of("kms", error, error.hint or "wait for the other command"))
            yield failed[0]
        except (IntegrityError, FormatError) as error:
            failed.append(problem_of("kms", error, error.hint or RESTORE))
            yield failed[0]
        except (VolcryptError, OSError) as error:
            failed.append(problem_of("kms", error))
            yield failed[0]

    yield "kms", check_kms
    if failed:
        yield space
        return
    if not unanswered:
        yield "keys", lambda: doctor_keys.check_keys(home)
    yield "volumes", lambda: doctor_keys.check_volumes(home)
    yield "store", lambda: doctor_keys.check_stores(home)
