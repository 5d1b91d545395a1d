"""Build of the compiled modules; everything else about the package is in pyproject.toml.

With VOLCRYPT_STRICT=1 in the environment a warning ends the build: for builds that are tested, not
for who has a compiler that warns of more than ours.
"""

import os
import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup


def pkg_config(*arguments: str) -> list[str]:
    return subprocess.run(
        ["pkg-config", *arguments, "libcrypto"], check=True, capture_output=True, text=True
    ).stdout.split()


HARDENING = [
    "-O2",
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-frecord-gcc-switches",  # for who wants to see how it was built, a test among them
]
STRICT = ["-Werror"] if os.environ.get("VOLCRYPT_STRICT") == "1" else []
CIPHER = "volcrypt/crypto"
PLANE = "volcrypt/volume/plane"
PLANE_SOURCES = [
    "door.pyx",
    "answers.c",
    "helper.c",
    "lifecycle.c",
    "ownership.c",
    "relief.c",
    "replies.c",
    "requests.c",
]


def extension(name: str, sources: list[str], depends: list[str], *flags: str) -> Extension:
    return Extension(
        name,
        sources,
        depends=[f"{CIPHER}/xts_units.h", *depends],
        include_dirs=[CIPHER],
        extra_compile_args=[*HARDENING, *STRICT, *flags, *pkg_config("--cflags")],
        extra_link_args=["-Wl,-z,relro,-z,now", *pkg_config("--libs")],
    )


setup(
    ext_modules=cythonize(
        [
            extension("volcrypt.crypto.xts", [f"{CIPHER}/xts.pyx"], []),
            extension(
                "volcrypt.volume.plane.door",
                [f"{PLANE}/{name}" for name in PLANE_SOURCES],
                [f"{PLANE}/plane.h", f"{PLANE}/internal.h"],
                "-pthread",
            ),
        ],
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False},
    )
)
