"""Stand-ins for ports, with the same promises and with switches for what goes wrong."""
