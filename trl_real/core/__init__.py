"""What needs nothing else: messages, columns, the map transform, checks, redaction."""
