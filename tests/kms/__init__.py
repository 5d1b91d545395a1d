"""Tests of volcrypt.kms."""
