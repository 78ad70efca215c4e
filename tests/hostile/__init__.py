"""What hostile input, writers and clients may try; a file a subject."""
