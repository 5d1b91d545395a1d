"""A home of root whose keys belong to a user of their own: `volcrypt-kms.service`.

    HOME            root's; the user passes through it, and reads `home` and `config.toml`
    HOME/kms        the user's: token, PIN, catalogue, audit log
    SOCKET          where that user's daemon answers root, and nobody else

Nobody but the daemon opens the KMS of such a home: a command would leave files there that are
root's, and need the PIN, which the daemon alone has.
"""

import os
from pathlib import Path


def kms_has_own_user(home: Path) -> bool:
    """Whether the keys of a home belong to another user than the home, which is ours."""
    try:
        return home.stat().st_uid == os.geteuid() != (home / "kms").stat().st_uid
    except OSError:
        return False  # whoever needs the files says what is wrong with them


def socket_of_kms_user(home: Path, runtime_root: Path) -> Path:
    """Of the daemon, beside the runtime directories of root: `/run/volcrypt-kms/HOME.sock`, with
    the path of the home as systemd escapes it."""
    name = str(home.resolve()).strip("/").replace("-", "\\x2d").replace("/", "-")
    return runtime_root.with_name("volcrypt-kms") / f"{name}.sock"
