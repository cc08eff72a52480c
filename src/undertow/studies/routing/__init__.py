"""The routing study: which heads carry a model's decision to refuse (Frank, arXiv 2604.04385)."""
