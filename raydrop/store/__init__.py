"""Where results lie: entries by content hash, places that hold them, and files for people."""

from raydrop.store.entries import META, Entry, Store, required
from raydrop.store.places import Place, open_place

__all__ = ["META", "Entry", "Place", "Store", "open_place", "required"]
