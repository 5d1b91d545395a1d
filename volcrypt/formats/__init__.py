"""Bytes on disk and in stores: each module is the specification of one format, with its codec.

Pure: values in, bytes out, and back. Every format starts with magic and version; an unknown
version is refused; `decode` of junk raises only FormatError or IntegrityError.
"""
