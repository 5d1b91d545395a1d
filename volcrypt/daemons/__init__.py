"""Processes that stay: each module wires one from its parts and is run with `python -m`."""
