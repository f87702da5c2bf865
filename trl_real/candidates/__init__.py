"""Read rows in any known layout as candidates or given pairs."""
