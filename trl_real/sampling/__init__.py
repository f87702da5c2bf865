"""Prompts become scored candidates."""
