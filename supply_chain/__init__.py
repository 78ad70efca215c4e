"""What corank depends on: the lock, the SBOM made from it, and the licences that are accepted. Not shipped."""
