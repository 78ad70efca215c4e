"""corank compared with other libraries: quality and training speed."""
