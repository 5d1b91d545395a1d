"""Checks of `volcrypt doctor` on a home without its keys: directories, the PIN, the HSM's modules,
space, and what killed processes left."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from volcrypt.errors import FormatError, HsmUnavailableError, IntegrityError, VolcryptError
from volcrypt.kms.home import keeps_pin
from volcrypt.kms.lock import SERVING, is_served
from volcrypt.kms.module_probe import probe_module
from volcrypt.kms.pkcs11_session import HOME_LABEL, softhsm_module
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.token import configuration_of, private_copy
from volcrypt.operations.doctor_host import Host
from volcrypt.operations.findings import Finding, note, ok, problem, problem_of
from volcrypt.operations.freeze_notes import freeze_warnings
from volcrypt.operations.home_directory import abandoned_directories
from volcrypt.operations.kms_user import kms_has_own_user
from volcrypt.volume.device_links import DEVICE_DIRECTORY, false_links
from volcrypt.volume.directory import VolumeDirectory
from volcrypt.volume.mountpoint import FS_TYPE, Liveness, Mount, lines_of, liveness
from volcrypt.volume.owner import current_owner
from volcrypt.volume.space import space_warning

RESTORE: Final = "volcrypt restore, from a backup"
_OTHERS: Final = 0o077
_CHANGEABLE: Final = 0o022


def check_directories(path: Path, *, config_file: Path) -> Iterator[Finding]:
    """Whether the home is this user's, and nobody else sees its keys or changes its settings."""
    user = os.geteuid()
    wrong = False
    for each in (path, path / "kms", path / "volumes", path / "stores"):
        try:
            found = each.stat()
        except FileNotFoundError:
            wrong = True
            yield problem("home", f"{each} is missing", "put it back from a backup of the home")
            continue
        if each.is_symlink():
            yield note(
                "home",
                f"{each} is a link, to {each.resolve()}",
                "nothing, where an administrator made it",
            )
        if each == path / "kms" and kms_has_own_user(path):
            yield ok("home", f"{each} belongs to user {found.st_uid}, who alone has the keys")
        elif found.st_uid != user:
            wrong = True
            owner = f"user {found.st_uid}"
            yield problem(
                "home",
                f"{each} belongs to {owner}, and this is user {user}",
                "run volcrypt as the one that the home belongs to",
            )
        elif found.st_mode & (_OTHERS if each != path else _CHANGEABLE):
            wrong = True
            yield problem("home", f"{each} is open to other users", f"chmod go-rwx {each}")
        elif not os.access(each, os.R_OK | os.W_OK | os.X_OK):
            wrong = True
            yield problem("home", f"{each} cannot be written", f"chmod u+rwx {each}")
    if config_file.exists():
        found = config_file.stat()
        # It can name a program that is run, and a module that is loaded.
        if found.st_uid not in (0, user) or found.st_mode & _CHANGEABLE:
            wrong = True
            yield problem(
                "home",
                f"{config_file} can be changed by others, and can name programs to run",
                f"chown {user} {config_file} && chmod go-w {config_file}",
            )
    if not wrong:
        yield ok("home", f"{path} is this user's alone")


def check_runtime(host: Host, root: Path) -> Iterator[Finding]:
    """Whether sockets, change maps and copies of the token get a private place on tmpfs."""
    place = next(each for each in (root, *root.parents) if each.exists())
    kind = _file_system_of(host, place)
    if kind not in ("tmpfs", "ramfs"):
        yield problem(
            "runtime",
            f"{root} is on {kind or 'an unknown file system'}, not on tmpfs: change maps and "
            "copies of the token would lie on a disk",
            "mount tmpfs on /run, or set XDG_RUNTIME_DIR to a private directory on one",
        )
    elif not os.access(place, os.W_OK | os.X_OK):
        yield problem("runtime", f"{place} cannot be written by this user", f"chmod u+rwx {place}")
    else:
        yield ok("runtime", f"{root} is on {kind}")


def _file_system_of(host: Host, path: Path) -> str | None:
    real = str(path.resolve())
    best, kind = "", None
    for line in lines_of(host.text("/proc/self/mounts") or ""):
        _, point, found, *_ = line.split(" ")
        is_above = real == point or real.startswith(f"{point.rstrip('/')}/")
        if is_above and len(point) >= len(best):
            best, kind = point, found
    return kind


def check_home_token(directory: Path | None, runtime: Path) -> Iterator[Finding]:
    """The HSM of a home: its module loads, and has the token, on a private copy of that and without
    logging in. `directory` is HOME/kms/token, None where there is no home."""
    try:
        module = softhsm_module()
        with private_copy(runtime, master=directory) as copy:
            found = probe_module(module, configuration_of(copy))
    except HsmUnavailableError as error:
        yield problem_of("hsm", error, "apt-get install --reinstall softhsm2")
        return
    except (IntegrityError, FormatError) as error:  # the token itself
        yield problem_of("hsm", error, error.hint or RESTORE)
        return
    what = f"{found.description} {found.version} ({module})"
    if directory is not None and HOME_LABEL not in found.labels:
        yield problem("hsm", f"{what} finds no token of this home", RESTORE)
        return
    yield ok("hsm", f"{what}{'' if directory is None else ' has the token'}")
    yield note(
        "hsm",
        "keys are in software, in a module that nobody validated (no FIPS)",
        "where that is asked for: a custom key store on another PKCS#11 module "
        "([kms.clusters]), or a profile of another KMS",
    )


def check_clusters(
    clusters: Mapping[str, Cluster], validated: Mapping[str, str]
) -> Iterator[Finding]:
    """Tokens for custom key stores; `validated` is what the configuration says of their modules."""
    for name, cluster in clusters.items():
        try:
            found = probe_module(cluster.module, cluster.softhsm_configuration)
        except VolcryptError as error:
            yield problem_of("hsm", error, f"'module' in [kms.clusters.{name}] of config.toml")
            continue
        what = f"{name}: {found.description} {found.version} ({cluster.module})"
        if cluster.token_label not in found.labels:
            yield problem(
                "hsm",
                f"{what} has no token {cluster.token_label!r}",
                f"'token_label' in [kms.clusters.{name}]; there are: {found.labels}",
            )
        elif name in validated:
            yield ok("hsm", f"{what} has the token; config.toml says of it: {validated[name]}")
        else:
            yield ok("hsm", f"{what} has the token; nobody says that it is validated")


def check_pin(
    path: Path, *, is_configured: bool, find_creds: str | None, has_tpm: bool
) -> Iterator[Finding]:
    """Where the PIN is. `is_configured`: settings or a systemd credential name a source that needs
    nobody; `find_creds` is the program systemd-creds."""
    seal = "systemd-creds encrypt --name=volcrypt.pin PINFILE /etc/credstore.encrypted/volcrypt.pin"
    if keeps_pin(path / "kms"):
        tpm = ", sealed by the TPM" if has_tpm else ""
        yield note(
            "pin",
            "it lies beside the token: a stolen home has both",
            "volcrypt init --pin-file -, in a new home"
            + (f"; at boot from a systemd credential{tpm}: {seal}" if find_creds else ""),
        )
    elif is_configured:
        yield ok("pin", "it is not in the home, and comes from where config.toml or systemd says")
    elif is_served(path / "kms" / SERVING):
        yield ok("pin", "it is not in the home; 'kms serve' holds the keys")
    else:
        yield note(
            "pin",
            "it is not in the home, and is asked for at a terminal: nothing starts by itself",
            (f"{seal}, and LoadCredentialEncrypted= of the unit; or " if find_creds else "")
            + "[kms] pin_file in config.toml",
        )


def check_space(path: Path) -> Iterator[Finding]:
    """Whether the file system under the home is about to be full."""
    warning = space_warning(path, 0)
    if warning is not None:
        yield problem("space", warning, "free some, or move volumes to another ('--data')")
    else:
        yield ok("space", f"the file system under {path} has room")


def check_abandoned(root: Path, mounts: Sequence[Mount]) -> Iterator[Finding]:
    """What homes that were removed left on tmpfs, where it is in nobody's way but takes memory. One
    with a mount below it is `check_leftovers`' to name."""
    points = [Path(mount.mount_point) for mount in mounts]
    for directory, home in abandoned_directories(root):
        if not any(point.is_relative_to(directory) for point in points):
            mend = f"rm -r --one-file-system {shlex.quote(str(directory))}"
            yield note(
                "leftovers",
                f"{directory} is of the home {home}, which is not there",
                f"if that was removed for good: {mend}",
            )


def check_leftovers(
    path: Path | None,
    runtime: Path | None,
    mounts: Sequence[Mount],
    *,
    links: Path = DEVICE_DIRECTORY,
) -> Iterator[Finding]:
    """Dead mounts, links to devices that are no volumes any more, file systems that stayed frozen.
    `path` and `runtime` are the home's, None without one; `mounts` those of the host."""
    found = [
        *_dead_mounts(runtime, mounts),
        *_attachments_without_process(path, runtime, mounts),
        *(
            note("leftovers", f"{link} leads to no volume", "the next 'attach' removes it")
            for link in false_links(directory=links)
        ),
        *(problem("leftovers", text) for text in (freeze_warnings(runtime) if runtime else [])),
    ]
    yield from found or [ok("leftovers", "nothing is left of killed processes")]


def _dead_mounts(runtime: Path | None, mounts: Sequence[Mount]) -> Iterator[Finding]:
    for mount in mounts:
        point = Path(mount.mount_point)
        if mount.fs_type != FS_TYPE:
            continue
        state = liveness(point)
        if point.parent == runtime:
            mend = f"volcrypt detach {point.stem}"
        else:
            mend = f"volcrypt unmount {point}"
        if state is Liveness.DEAD:
            yield problem("leftovers", f"the process behind the mount at {point} is gone", mend)
        elif state is Liveness.SILENT:
            yield problem(
                "leftovers",
                f"the process behind the mount at {point} does not answer",
                f"look at its medium first; then {mend}",
            )


def _attachments_without_process(
    path: Path | None, runtime: Path | None, mounts: Sequence[Mount]
) -> Iterator[Finding]:
    """Where the mount is gone already."""
    mounted = {mount.mount_point for mount in mounts}
    if path is None or runtime is None:
        return
    volumes = VolumeDirectory(path / "volumes")
    for volume_id in volumes.ids():
        point = runtime / f"{volume_id}.mnt"
        if str(point) in mounted or not point.exists():
            continue
        if current_owner(volumes.path_of(volume_id)) is None:
            yield problem(
                "leftovers",
                f"{volume_id} was attached, and its process is gone",
                f"volcrypt detach {volume_id}",
            )
