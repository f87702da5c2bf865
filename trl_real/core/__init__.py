"""Helpers that depend on no other folder: messages, columns, files, the map transform, checks and redaction."""
