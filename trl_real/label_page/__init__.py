"""The page on which people label, from the extra `label`."""
