"""corank."""
