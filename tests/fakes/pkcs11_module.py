"""PKCS#11 modules that only misbehave."""

import subprocess
from pathlib import Path


def make_module(directory: Path, body: str) -> Path:
    """A library that does `body`, in C, when it is asked for its functions."""
    source = directory / "module.c"
    source.write_text(
        "#include <stdlib.h>\n#include <unistd.h>\n"
        f"unsigned long C_GetFunctionList(void **list) {{ (void)list; {body} return 5; }}\n"
    )
    module = directory / "module.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", module, source], check=True)
    return module
