"""The processes of one training: who they are, and what they send each other."""
