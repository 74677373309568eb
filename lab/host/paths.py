"""Where the lab's own files are, and where it keeps what it builds."""

import os
import pathlib

LAB = pathlib.Path(__file__).resolve().parent.parent
CHECKOUT = LAB.parent


def cache() -> pathlib.Path:
    """The directory of everything that is built, and of the runs' logs."""
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(base) / 'nova-isolation' / 'lab'
