"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that names the offender and the remedy. The command line prints it
    without a traceback and exits with status 1.
    """
