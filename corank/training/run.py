"""A run: the folder of one training, and what can be read of it.

run.json                config, and where the data and their packing lie
latest.safetensors      the training state, from which --resume goes on
best.safetensors        the weights of the best epoch so far
model.safetensors       the trained model with its calibrators: written last, so a run that has it is finished
events/                 TensorBoard
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from corank.core.calibration import Platt
from corank.core.errors import CheckpointError
from corank.core.files import atomic_file
