"""Tables → packed data."""
