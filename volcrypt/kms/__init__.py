"""Key management: keys, policies, audit and the HSM behind them. Knows no volumes or snapshots.

`home` makes and opens the KMS of a home; what it opens is a `service`: one method per operation of
the AWS KMS, in three groups (`key_operations`, `alias_operations`, `data_operations`) over one
`scope`. Each request goes through the `performer`, many at a time: policy and state are checked (in
an `attempt`), the audit record is durable, then it happens.

    pure       model, reference, context, lifecycle, policy, messages, protocol, sealing, index,
               freshness, record_filter
    ports      keystore: what a KMS needs of an HSM; pkcs11 is that on a real token
    engines    token (the token's files); catalog and view (what must survive) over rows (verified)
               over database (SQLite); keyring, calls and register (keys, counted calls, which
               records are current, as its items); audit (the log), audit_events (what goes into
               it) and head_file (its sealed end); lock (one writer at a time, one server)

Locks are taken in this order: the catalogue's mutex (threads), the home's writer lock (processes),
SQLite's transaction, the HSM's lock. Encryption and decryption hold the HSM's lock alone.
"""
