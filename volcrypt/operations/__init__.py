"""The use cases: the only place where keys, volumes and snapshots meet.

Each takes an open `Home` and plain values, and returns values; nothing here prints or parses.
"""
