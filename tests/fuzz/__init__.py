"""Fuzzing of whatever reads what others wrote: a table of decoders, and changes to their bytes.

`decoders.py` has the base of the table, its entries are in `stored.py` (on disk, in a store),
`spoken.py` (on sockets) and `typed.py` (by people). `mutation.py` changes bytes. `test_decoders.py`
runs all of it for a moment, `python -m tests.fuzz` for as long as one likes.
"""
