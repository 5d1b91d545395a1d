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
    "volcrypt/kms/policy.py": {
        "document = parse_policy(key_policy, PolicyKind.KEY) -> "
        "document = parse_policy(key_policy, None)": "what is no identity policy is a key policy",
        "return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() -> "
        "return msgspec.json.format(msgspec.json.encode(document)).decode()": "two is the default",
    },
    "volcrypt/kms/policy_document.py": {
        "return Pattern.parse(text, variables=False, ignore_case=True) -> "
        "return Pattern.parse(text, variables=None, ignore_case=True)": "asked whether it holds",
        "return Pattern.parse(text, variables=False, ignore_case=True) -> "
        "return Pattern.parse(text, variables=True, ignore_case=True)": "no action has a $",
        "return Pattern.parse(text, variables=False) -> "
        "return Pattern.parse(text, variables=None)": "asked whether it holds",
        "return Pattern.parse(text, variables=False) -> "
        "return Pattern.parse(text, variables=True)": "the text is a star",
        'raise ValueError("a member stands twice in one object") -> '
        "raise ValueError(None)": "nobody is shown this text",
        "count += 1 -> count = 1": "only asked whether it is 0",
        "count += 1 -> count -= 1": "only asked whether it is 0",
        "count += 1 -> count += 2": "only asked whether it is 0",
    },
}
