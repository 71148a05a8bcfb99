"""Generation behind one protocol: `load` a version, `generate` under it, `close` it."""

from llmagentos.engines.engine import Chunk, Engine, Sampling, load

__all__ = ["Chunk", "Engine", "Sampling", "load"]
