"""Key management: keys, policies, audit and the HSM behind them. Knows no volumes or snapshots.

`home` makes and opens the KMS of a home; what it opens is a `service`: one method per operation of
the AWS KMS, in three groups (`key_operations`, `alias_operations`, `data_operations`) over one
`scope`. Each request goes through `attempt`: policy and state are checked, the audit record is
durable, then it happens.

    pure       model, reference, context, lifecycle, policy, limits, protocol, sealing
    ports      keystore: what a KMS needs of an HSM; home_token is that on the home's token, by
               pkcs11 (keys), pkcs11_session (library and login), token (files) and pin;
               key_stores: further tokens, each through remote_store in a process of its own
               (key_store_process)
    engines    catalog and view (what must survive), keyring (keys as its items), register (which
               records are current), audit (the log), lock (one writer at a time)

Locks are taken in this order: the catalogue's mutex (threads), the home's writer lock (processes),
SQLite's transaction, the HSM's lock. Encryption and decryption hold the HSM's lock alone.
"""
