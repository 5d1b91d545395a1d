"""Tests of `volcrypt.formats`."""
