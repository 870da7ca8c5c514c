"""What a user did wrong, as opposed to what zoo did wrong."""


class UserError(ValueError):
    """A mistake in a command, config or input file. The command line prints it as one line and exits with status 2."""
