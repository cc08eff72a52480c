"""The inspector: a page that shows what the model believes about a conversation, and what steering does to it."""
