"""What a feature may be, and how values become codes and numbers."""
