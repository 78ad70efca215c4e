"""Errors that a user can correct. Each message says what is wrong, where, and what to do about it.

The command line prints the message alone and exits with 1. A traceback is a bug of corank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CorankError(Exception):
    """Base of all errors that a user can correct."""


class ConfigError(CorankError):
    """The config is invalid; the message begins with the path of the key."""


class UsageError(ConfigError):
    """Options that exclude each other, which the command line reports with exit status 2."""


class PluginError(ConfigError):
    """A plug-in cannot be imported, or breaks the protocol of its sort; the message names module and part."""


class MissingExtraError(CorankError):
    """A part of the installation is missing; the message names what needs it and the extra that brings it."""


class DataError(CorankError):
    """A table, or packed data, cannot be used; the message names file, column, row or key."""


class DiskError(DataError):
    """Packed data cannot be written; the message names the folder."""


class RowError(DataError):
    """A value of one row of a table cannot be used. The caller that knows the table's key adds it, by `of_row`."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row
        """Number of the row, from 0."""

    def of_row(self, key: str) -> DataError:
        """Make the error that names the row by its key, such as `item_id=7`."""
        return DataError(f"{self}, at {key}")


@contextmanager
def name_rows(describe: Callable[[int], str]) -> Iterator[None]:
    """Name the row of a RowError of the block by its key, which `describe` makes of the row's number."""
    try:
        yield
    except RowError as error:
        raise error.of_row(describe(error.row)) from None


class CheckpointError(CorankError):
    """A checkpoint is damaged or belongs to another config."""


class BundleError(CorankError):
    """A bundle is truncated, altered, or mixes parts of two model versions."""


class StoreError(CorankError):
    """A store cannot be reached, is full, or holds what is not corank's; the message names its address."""


class StreamError(CorankError):
    """A topic of a stream cannot be read, or holds what nobody can use."""


class StorageError(CorankError):
    """An object store refuses, cannot be reached, or holds what is not corank's; the message names the URL."""


class MissingObjectError(StorageError):
    """There is no such object; the message names the URL."""


class TrustError(CorankError):
    """A key cannot be used, or no trusted key signed a version; the message names the version and the keys."""


class BusyError(CorankError):
    """Another process writes the target; the message names the process and since when."""


class RequestError(CorankError):
    """A ranking request cannot be answered; the message names the field."""


class DistributedError(CorankError):
    """The processes of a training cannot work together; the message names the rank and the collective."""


class OtherRankError(CorankError):
    """Another process of the training has failed and reports it; this one ends, and prints nothing."""


class EngineError(CorankError):
    """An engine cannot run a task; the message names the engine, the task and its worker."""


class TrackingError(CorankError):
    """A run was not written to a tracker; the message names it."""


class DivergedError(DataError):
    """A loss or a score is NaN: the learning rates are too high, or a feature has extreme values."""
