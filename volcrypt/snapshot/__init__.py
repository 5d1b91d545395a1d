"""Snapshots: immutable signed manifests over chunks of ciphertext in a store.

`objects` is the port to where objects lie, `store` knows their names and what makes them true,
`plan` decides what to move, `transfer` moves it. Nothing here holds a data key; a copy under
another key is given its step from outside.
"""
