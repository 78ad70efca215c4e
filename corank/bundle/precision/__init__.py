"""What storing the parts of items in less than fp32 changes, and the same content in fp32 to compare with."""
