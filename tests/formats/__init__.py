"""Tests of volcrypt.formats."""
