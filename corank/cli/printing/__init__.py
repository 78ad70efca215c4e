"""Tables and lines that commands print, one subject a file."""
