"""Generation behind one protocol: `load` a version, `generate` under it, `close` it."""

from llmagentos.engines.engine import Chunk, Engine, Grammar, Sampling, TokenScore, load, prepare, start

__all__ = ["Chunk", "Engine", "Grammar", "Sampling", "TokenScore", "load", "prepare", "start"]
