"""Requests and responses of the AWS KMS, and the limits on their members."""
