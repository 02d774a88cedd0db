"""Where images come from, one source per file."""
