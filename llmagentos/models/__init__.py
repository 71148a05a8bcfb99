"""Models: build, load, render messages."""
