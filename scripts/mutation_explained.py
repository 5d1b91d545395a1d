"""Mutants of the pure core that no test can notice, and why, by module."""

from typing import Final

EXPLAINED: Final[dict[str, dict[str, str]]] = {
    "volcrypt/geometry.py": {
        'number, suffix = int(match[1]), (match[2] or "B").upper() -> '
        'number, suffix = int(match[1]), (match[2] or "b").upper()': "made upper case right there",
    },
    "volcrypt/formats/change_map.py": {
        "or not 0 < body.size_bytes <= MAX_VOLUME_BYTES -> "
        "or not 1 < body.size_bytes <= MAX_VOLUME_BYTES": "no volume has 1 byte",
    },
    "volcrypt/kms/grants.py": {
        'data = b"" -> data = b"XXXX"': "no token has 4 bytes either",
    },
    "volcrypt/formats/manifest.py": {
        "or not 0 < manifest.size_bytes <= MAX_VOLUME_BYTES -> "
        "or not 1 < manifest.size_bytes <= MAX_VOLUME_BYTES": "a byte is no whole data unit",
    },
    "volcrypt/kms/policy_document.py": {
        "count += 1 -> count = 1": "only asked whether it is 0",
        "count += 1 -> count -= 1": "only asked whether it is 0",
        "count += 1 -> count += 2": "only asked whether it is 0",
    },
}
