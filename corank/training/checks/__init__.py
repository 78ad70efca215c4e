"""What a log holds that decides what can be learnt from it: counts, known and unknown ids, columns, and what to try."""
