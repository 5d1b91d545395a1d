"""Programs for users and developers; nothing here is installed."""
