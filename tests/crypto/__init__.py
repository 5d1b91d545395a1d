"""Tests of volcrypt.crypto."""
