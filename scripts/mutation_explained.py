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
        "return msgspec.json.format(msgspec.json.encode(document), ).decode()": (
            "two is the default"
        ),
        "and statement.actions.match(request.action, facts) -> "
        "and statement.actions.match(request.action, None)": "no action has a variable",
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
        "json.dumps(document, ensure_ascii=False).encode() -> "
        "json.dumps(document, ensure_ascii=None).encode()": "asked whether it holds",
        "count += 1 -> count = 1": "only asked whether it is 0",
        "count += 1 -> count -= 1": "only asked whether it is 0",
        "count += 1 -> count += 2": "only asked whether it is 0",
    },
    "volcrypt/kms/patterns.py": {
        "end = 0 -> end = None": "a slice from the beginning, either way",
        '_Variable("", None) if not parts else _Variable(parts[1].lower(), parts[2]) -> '
        "_Variable(None, None) if not parts else _Variable(parts[1].lower(), parts[2])": (
            "no request has such a key either"
        ),
        '_Variable("", None) if not parts else _Variable(parts[1].lower(), parts[2]) -> '
        '_Variable("XXXX", None) if not parts else _Variable(parts[1].lower(), parts[2])': (
            "no request has a key in upper case either"
        ),
        "if len(texts) < len(tokens): -> if len(texts) <= len(tokens):": "the same, by expression",
        "return -1 if found is None else found.start() -> "
        "return -2 if found is None else found.start()": "only asked whether it is negative",
        "is_fixed = not any(isinstance(token, _Variable) for token in self.tokens) -> "
        "is_fixed = None": "made at each match instead",
        'object.__setattr__(self, "_fixed", self._glob(self.tokens) if is_fixed else None) -> '
        'object.__setattr__(self, "_fixed", None)': "made at each match instead",
        'object.__setattr__(self, "_fixed", self._glob(self.tokens) if is_fixed else None) -> '
        'object.__setattr__(self, "_fixed", self._glob(self.tokens) if (is_fixed) and False '
        "else None)": "made at each match instead",
        "if len(parts) < _ARN_PARTS and parts[-1][-1:] == [_STAR]: -> "
        "if len(parts) <= _ARN_PARTS and parts[-1][-1:] == [_STAR]:": "none are missing then",
        **{
            "pattern.matches(part, facts) for pattern, part in "
            "zip(self.parts, parts, strict=True) -> "
            "pattern.matches(part, facts) for pattern, part in "
            f"zip(self.parts, parts, {other})": "there are six of both"
            for other in ("strict=None", "", "strict=False")
        },
    },
    "volcrypt/chunk_set.py": {
        "first_whole, last_whole = -(-chunks.start // 8), chunks.stop // 8 -> "
        "first_whole, last_whole = -(-chunks.start // 8), chunks.stop // 9": "slower, bit by bit",
        "if first_whole < last_whole: -> if first_whole <= last_whole:": "an empty slice",
        "*range(chunks.start, min(first_whole * 8, chunks.stop)), -> "
        "*range(chunks.start, min(first_whole * 9, chunks.stop)),": "bits that are set already",
        "if first + len(flags) > start: -> if first + len(flags) >= start:": "nothing is left then",
        "for start, stop in edges.reshape(-1, 2).tolist(): -> "
        "for start, stop in edges.reshape(-2, 2).tolist():": "any negative number means the rest",
        'int.from_bytes(self._bits[at : at + _BLOCK_BYTES].tobytes(), "little").bit_count() -> '
        "int.from_bytes(self._bits[at : at + _BLOCK_BYTES].tobytes(), ).bit_count()": (
            "bits are counted in any order"
        ),
    },
    "volcrypt/kms/conditions.py": {
        "raise ValueError(text) -> raise ValueError(None)": "nobody is shown this text",
        "raise ValueError(text) from error -> raise ValueError(None) from error": (
            "nobody is shown this text"
        ),
        "pattern = Pattern.parse(text, variables=variables, wildcards=False, ignore_case=True) -> "
        "pattern = Pattern.parse(text, variables=variables, wildcards=None, ignore_case=True)": (
            "only asked whether it holds"
        ),
        "network = ipaddress.ip_network(text, strict=False) -> "
        "network = ipaddress.ip_network(text, strict=None)": "only asked whether it holds",
    },
}
