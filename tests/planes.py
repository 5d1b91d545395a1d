"""On which data plane the tests that mount volumes run, where they do not say it themselves.

`VOLCRYPT_TEST_DATA_PLANE=native .venv/bin/pytest tests/e2e` runs them all on the compiled one.
"""

import os
from typing import Final, cast

from volcrypt.volume.launch import DataPlaneKind

DATA_PLANE: Final = cast(DataPlaneKind, os.environ.get("VOLCRYPT_TEST_DATA_PLANE", "python"))
assert DATA_PLANE in {"python", "native"}
