"""Tests of volcrypt.volume."""
