"""The bundle: what is shipped. One manifest names one content folder, and every part's size and checksum.

    BUNDLE/manifest.json                     the pointer: written last, switched in one rename
    BUNDLE/<model_version>-<items_seq>/      encoders/  tables/  items/  and a stage's graphs:
                                            <stage>.query.onnx and <stage>.item.onnx, or <stage>.onnx; priors/

A reader sees the old content or the new, never half; the content before the newest stays for those still reading it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from corank.core.errors import BundleError, ConfigError
from corank.core.files import PARTIAL, atomic_file, atomic_folder
