"""Benchmarks: run by hand, never a timed test."""
