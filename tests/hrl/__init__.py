"""Tests of change logs."""
