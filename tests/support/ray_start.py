"""Ray on this machine, for a test."""

import gc
import os
import subprocess

import pytest

from corank.core.errors import EngineError
from corank.engine.base import Engine, open_engine
from corank.engine.cores import count_cores


def start_ray() -> Engine:
    """Start Ray. Ray itself gives its helpers 15 s, which nothing changes: on a machine too busy for that, skip."""
    try:
        return open_engine("ray", 2)
    except EngineError as error:
        end_ray()
        if "timed out during startup" in str(error) and os.getloadavg()[0] > 2 * count_cores():
            pytest.skip("Ray does not start on a machine as busy as this")
        raise


def end_ray() -> None:
    """End the processes of a Ray that has not started; Ray leaves them until this process ends."""
    processes = [one for one in gc.get_objects() if issubclass(type(one), subprocess.Popen)]
    for process in processes:
        if process.poll() is None and "/ray/" in str(process.args):
            process.kill()
            process.wait()
