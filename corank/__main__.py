"""The command `corank`, also as `python -m corank`."""

import os
import signal


def start() -> None:
    """Run the command line. An interrupt while its modules are loaded ends the process without a traceback."""
    # a function, since polars' handler, set while it is loaded, passes an interrupt on to functions alone
    interrupt = signal.signal(signal.SIGINT, end_process)
    from corank.core.lazy import without_collection

    with without_collection():
        from corank.cli.main import main as run

    signal.signal(signal.SIGINT, interrupt)
    run()


def end_process(*_: object) -> None:
    """End the process as an interrupt does that nothing handles."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    start()
