"""What the lab says instead of a traceback."""


class LabError(Exception):
    """Something a person has to know or do; its text is the whole message."""
