"""`evaluate` modules that measure the quality of labels, pairs and aligned models."""
