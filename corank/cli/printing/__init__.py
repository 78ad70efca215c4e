"""What commands print that is too long for the console's own file: tables and lines of one subject each."""
