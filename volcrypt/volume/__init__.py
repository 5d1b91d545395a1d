"""Volumes: blocks encrypted on their way to a data file, and the process that serves them.

From the disk up: `datafile` (positional I/O), `volume` (the cipher and the rule of holes),
`change_map` (what changed since the parent snapshot), `chunk_conditions` (what stands against a
write to a chunk), `capture` and `preserve` (points in time, and what writers replace meanwhile),
`device` (many callers at once), `fuse` (the kernel's door), `control` (the commands' door),
`launch` (how the process that serves gets its key); beside them `mountpoint` and `loop`.
Nothing here knows a KMS or a snapshot store: a data key comes in, chunks of ciphertext go out.
"""
