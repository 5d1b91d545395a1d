"""Looks at a PKCS#11 module in a process of its own: one that hangs or crashes harms nobody.

    python -m volcrypt.kms.module_probe MODULE [CONFIGURATION]

prints a `ModuleInfo` as JSON, or one line on standard error that says why not.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.confinement import forbid_dumps
from volcrypt.errors import HsmUnavailableError, VolcryptError
from volcrypt.kms.pkcs11_session import ModuleInfo, module_info

_SECONDS: Final = 20


def probe_module(module: Path, configuration: Path | None) -> ModuleInfo:
    """As `module_info`. Raises HsmUnavailableError, also when the module crashes or hangs."""
    arguments = [str(module), *([] if configuration is None else [str(configuration)])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, *arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise HsmUnavailableError(
            f"the PKCS#11 module {module} did not answer within {_SECONDS} s"
        ) from error
    if done.returncode < 0:
        raise HsmUnavailableError(
            f"the PKCS#11 module {module} crashed (signal {-done.returncode})"
        )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise HsmUnavailableError(f"the PKCS#11 module {module} does not load: {reason}")
    return msgspec.json.decode(done.stdout, type=ModuleInfo)


def main() -> None:
    forbid_dumps()  # of a module that crashes
    try:
        found = module_info(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    except (VolcryptError, RuntimeError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
