"""Item vectors of a whole catalogue, made by the tasks of an engine."""
