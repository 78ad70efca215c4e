"""The command `corank`, also as `python -m corank`."""

import signal


def start() -> None:
    """Run the command line. An interrupt while its modules are loaded ends the process without a traceback."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from corank.cli.main import main as run

    signal.signal(signal.SIGINT, interrupt)
    run()


if __name__ == "__main__":
    start()
