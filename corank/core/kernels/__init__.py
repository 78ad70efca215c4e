"""Inner loops over arrays that numpy alone does not do well."""
