"""The data plane: compiled threads in front of pyfuse3. `plane.h` has its theory of operation, and
`volcrypt.volume.ownership` the protocol by which it and Python keep out of each other's way."""
