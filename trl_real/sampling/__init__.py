"""Sample responses to prompts, and score them."""
