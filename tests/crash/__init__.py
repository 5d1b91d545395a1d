"""Kills and power cuts, on real file systems."""
