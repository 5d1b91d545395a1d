"""Tests that run the real programs on real mounts and devices."""
