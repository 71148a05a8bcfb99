"""Simulated environments with a known right answer."""
