"""Key management: keys, policies, audit and the HSM behind them.

`service` has one method per operation of the AWS KMS: it checks state, policy and grants, writes
the audit record, then acts. `catalog` keeps what must survive, `keystore` says what a KMS needs of
an HSM, `pkcs11` is that on a real token. Nothing here knows volumes or snapshots.
"""
