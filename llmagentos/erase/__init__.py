"""Erasing a person: out of the log, the spool, datasets, memory, suites, traces and caches, and out of the line of versions."""
