"""A guarded model behind HTTP: OpenAI-compatible chat, moderations, and an inspector page."""
