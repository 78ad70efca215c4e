"""How many files the processes of a service may open: connections are files, too."""

import resource

from corank.core.errors import ConfigError

OTHER_FILES = 256
"""Files that a worker opens in addition to its connections: its bundle, its store, its logs."""


def allow_open_files(connections: int) -> None:
    """Let this process and its workers open as many files as they need. Raises ConfigError if they may not."""
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"--connections {connections}: needs {needed} open files, and `ulimit -Hn` is {hard}; raise it, or "
            "lower --connections"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
