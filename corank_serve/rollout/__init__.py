"""Two versions judged by the logs of what was served."""
