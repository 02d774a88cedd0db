"""One offline page: the answer, the figures, every number, and what is missing."""
