"""The one exception a user is meant to read."""


class MgvrError(Exception):
    """Bad input, named: the message says which file, key or row is wrong and what to do about it.

    The command line prints the message alone (no traceback) and exits with status 2.
    """


class JobError(MgvrError):
    """Work had begun and could not be finished: as MgvrError, but with exit status 1."""
