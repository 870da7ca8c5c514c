"""What a user did wrong, as opposed to what zoo did wrong."""

LOCALE = "{} has letters that names of files cannot have in this locale: set PYTHONUTF8=1"
"""To be said where a name is not written in ASCII and the locale knows nothing else."""


class UserError(ValueError):
    """A mistake in a command, config or input file.

    The command line prints it as one line and exits with status 2.
    """


def is_too_large(error: BaseException) -> bool:
    """Whether memory did not suffice, or a number was larger than a size can be."""
    words = (
        "can't allocate memory",
        "out of memory",
        "overflow",
        "too large",
        "invalid dimensions",
    )
    return isinstance(error, MemoryError | OverflowError) or (
        isinstance(error, RuntimeError | TypeError)
        and any(word in str(error).lower() for word in words)
    )
