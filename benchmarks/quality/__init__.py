"""Quality of the models, compared with references that are fitted on the same rows."""
