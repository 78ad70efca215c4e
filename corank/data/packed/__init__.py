"""Parts of packed data: whole requests, and counts of a split."""
