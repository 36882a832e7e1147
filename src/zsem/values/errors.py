"""The error that a user sees as one sentence."""


class ZsemError(Exception):
    """Something a user can mend: one sentence that says what, where and how to mend it.

    The command line prints the sentence and exits with code 2; in Python it is an ordinary exception.
    """
