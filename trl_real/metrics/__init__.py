"""Modules of `evaluate`, which judge labels, pairs and aligned models."""
