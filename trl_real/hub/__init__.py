"""Cards, and datasets on the Hub."""
