"""What a bundle computes of every candidate of a log: logits, probabilities and values, without torch."""
