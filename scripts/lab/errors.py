"""The one exception of the lab's host side: its text is meant for the user, without a traceback."""


class LabError(Exception):
    """A host-side step failed: a missing tool, a failed download, an unusable file."""
