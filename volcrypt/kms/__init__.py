"""Key management: keys, policies, audit and the HSM behind them. Knows no volumes or snapshots.

`home` makes and opens the KMS of a home; what it opens is a `service`: one method per operation of
the AWS KMS, in groups (`key_operations`, `alias_operations`, `data_operations`,
`policy_operations`, `grant_operations`) over one `scope`, and beside them those on principals
(`principal_operations`, `access_key_operations`), which AWS has in IAM. Each request goes through
`attempt`: who may do it is decided (`authorisation`), its state is checked, the audit record is
durable, then it happens.

    pure       model, reference, context, lifecycle, limits, protocol, sealing
    rules      policy: the decision, to be read first; policy_document, conditions and patterns
               under it; grants beside it; facts: what policies can ask of a request
    ports      keystore: what a KMS needs of an HSM; home_token is that on the home's token, by
               pkcs11 (keys), pkcs11_session (library and login), token (files) and pin
    engines    catalog and view (what must survive) over rows (verified) over database (SQLite);
               keyring, principals, grant_items, calls and register (what its items are); audit
               (the log), audit_events (what goes into it) and head_file (its sealed end); lock
               (one writer at a time, one server)

Locks are taken in this order: the catalogue's mutex (threads), the home's writer lock (processes),
SQLite's transaction, the HSM's lock. Encryption and decryption hold the HSM's lock alone.
"""
