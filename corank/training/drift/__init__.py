"""Are the new rows of a log like those that a run was trained on? Compared before anything is trained."""
