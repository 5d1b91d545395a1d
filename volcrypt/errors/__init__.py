"""The one tree of exceptions, and nothing else; it is imported from here, whichever part of it.

Fields are typed; the message is made from them, in lower case and without a full stop, fit to
stand behind `error: `. `hint`, where there is one, says what the user can do. An error is
translated once at each edge, from a table: errno, AWS error name and exit code are the edges'
business (`volume.fuse`, `kms.protocol`, `cli.main`), not this package's.

A broken invariant of our own is no error of this tree: it is an AssertionError or RuntimeError
that says "internal error".
"""

from volcrypt.errors.base import *
from volcrypt.errors.kms import *
from volcrypt.errors.snapshots import *
from volcrypt.errors.stored import *
from volcrypt.errors.volumes import *
