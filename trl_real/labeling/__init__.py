"""Pairs go to people and come back as preferences."""
