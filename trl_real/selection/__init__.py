"""Pick pairs by their embeddings, within a budget, and report what was done."""
