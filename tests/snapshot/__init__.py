"""Part of the tests; see tests/README.md."""
