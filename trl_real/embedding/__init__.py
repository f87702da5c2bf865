"""Responses become vectors."""
