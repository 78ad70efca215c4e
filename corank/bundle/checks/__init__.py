"""What a bundle may hold: names of parts, arrays, graphs that refer to no other files."""
