"""The endpoints of a service: what ranks, what changes what is served, and what tells its state."""
