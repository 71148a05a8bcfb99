"""LLMAgentOS: LLM agents that learn from their own traffic, and prove that they did not forget."""

__version__ = "0.1.0"
