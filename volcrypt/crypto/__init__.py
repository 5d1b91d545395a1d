"""Ciphers, digests and secrets in memory: pure functions of their arguments, no I/O."""
