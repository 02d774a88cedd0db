"""Methods that prune a network, one criterion per file."""
