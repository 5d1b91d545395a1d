"""State machines and properties, by hypothesis."""
