"""Vectors become pairs, within a budget, with a report."""
