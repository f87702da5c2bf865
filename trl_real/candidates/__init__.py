"""Rows in any known layout become candidates or given pairs."""
