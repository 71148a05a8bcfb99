"""Streams: a generated life of an agent in stages, with what is right at every point of it."""
