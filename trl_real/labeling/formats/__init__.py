"""Tasks for label tools, and the labels that come back: one module per tool, and the table of all of them in `tools.py`."""
