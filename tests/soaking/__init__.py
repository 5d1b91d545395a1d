"""Hours of mixed load on a whole home, of which every byte is known; see `program`."""
