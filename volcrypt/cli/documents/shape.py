"""What the shapes of all documents have in common."""

import msgspec

Time = str
"""As 2026-01-31T12:00:00Z."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """Members of a document, in their order; one with a default may be absent."""
