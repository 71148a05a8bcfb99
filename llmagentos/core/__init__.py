"""The nouns: frozen records, decisions and the error tree. Standard library and pydantic only."""
