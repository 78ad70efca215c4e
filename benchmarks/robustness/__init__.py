"""What holds under hostile input, kills, outages and load."""
