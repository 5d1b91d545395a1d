"""Tests of `volcrypt.volume`."""
