"""Have people label pairs, and turn their labels into preferences."""
