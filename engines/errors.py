"""The one exception that a user is meant to see."""


class UserError(Exception):
    """A mistake or a missing thing that the user can fix: one line that says what, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
