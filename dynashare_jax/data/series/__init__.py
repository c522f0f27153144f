"""Your own series."""
