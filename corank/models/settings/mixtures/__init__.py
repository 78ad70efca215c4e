"""What is set of several predictions of one network, and of experts that labels share."""
