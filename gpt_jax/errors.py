"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: one clear sentence that names the file, the row and the mend.

    The command line prints the sentence without a traceback and exits with code 2.
    """
