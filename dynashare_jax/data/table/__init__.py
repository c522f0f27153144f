"""Your own tables."""
