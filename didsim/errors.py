"""Failures that are nobody's bug, each with the exit code that the command line reports for it."""

__all__ = [
    "BadDataError",
    "CellsFailedError",
    "DidsimError",
    "MissingExtraError",
    "NothingSelectedError",
    "ResourceError",
]


class DidsimError(Exception):
    """A failure that a person can act on."""

    exit_code = 3


class BadDataError(DidsimError):
    """A data file that is missing, empty, unreadable or unsafe."""

    exit_code = 4


class NothingSelectedError(DidsimError):
    """A selection that matches nothing."""

    exit_code = 5


class CellsFailedError(DidsimError):
    """Some cells of an experiment failed; the others are kept, and the same command resumes."""

    exit_code = 6


class ResourceError(DidsimError):
    """Disk, device or output directory cannot be used."""

    exit_code = 7


class MissingExtraError(DidsimError, ImportError):
    """An optional part of didsim whose libraries are not installed."""

    exit_code = 2
