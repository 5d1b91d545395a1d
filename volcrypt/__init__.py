"""volcrypt: volumes encrypted on the host, snapshots, and a KMS whose keys stay in an HSM.

Who calls whom, from the top: `cli` and `daemons` call `operations` (the use cases, the only
place where keys, volumes and snapshots meet); `kms`, `volume` and `snapshot` do not know each
other; all of them stand on `formats` (bytes on disk), `crypto`, `geometry`, `names`, `errors`.
"""

__version__ = "0.1.0"
