"""What the answer to a request has."""
