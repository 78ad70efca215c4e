"""A benchmark of cascades that anyone's losses and stage models can enter."""
