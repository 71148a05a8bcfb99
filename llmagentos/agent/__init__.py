"""The agent: one turn of a conversation under one pinned engine."""
