"""The endpoint: OpenAI's HTTP shapes on Ray Serve, recording, versions under load."""
