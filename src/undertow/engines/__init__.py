"""Other places where prompts are scored: one narrow module an engine, each imported only when it is asked for."""
