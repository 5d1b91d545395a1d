"""Tests of the daemons' parts."""
