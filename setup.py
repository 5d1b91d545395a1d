"""Build of the one compiled module; everything else about the package is in pyproject.toml."""

import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup


def pkg_config(*arguments: str) -> list[str]:
    return subprocess.run(
        ["pkg-config", *arguments, "libcrypto"], check=True, capture_output=True, text=True
    ).stdout.split()


HARDENING = ["-O2", "-Wall", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "volcrypt.crypto.xts",
                ["volcrypt/crypto/xts.pyx"],
                extra_compile_args=[*HARDENING, *pkg_config("--cflags")],
                extra_link_args=["-Wl,-z,relro,-z,now", *pkg_config("--libs")],
            )
        ],
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False},
    )
)
