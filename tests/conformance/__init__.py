<<<<<<< HEAD
"""Part of the tests; see tests/README.md."""
=======
"""One suite per port, run on the fake and on the real thing."""
>>>>>>> kms
