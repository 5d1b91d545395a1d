"""Key management: keys, policies, audit and the HSM behind them. Knows no volumes or snapshots.

`home` makes and opens the KMS of a home; what it opens is a `service`: one method per operation of
the AWS KMS, in groups (`key_operations`, `tag_operations`, `rotation_operations`,
`deletion_operations`, `alias_operations`, `data_operations`, `import_operations`,
`key_store_operations`, `policy_operations`, `grant_operations`) over one `scope`, and beside them
those on principals (`principal_operations`, `access_key_operations`), which AWS has in IAM. Each
request goes through `attempt`: who may do it is decided (`authorisation`), its state is checked,
the audit record is durable, then it happens. What happens by itself, when its time has come, is in
`maintenance`, by `clock`.

    pure       model, reference, context, lifecycle, protocol, sealing, paging, key_metadata
    messages   requests and answers, their limits and enums as AWS's service model has them
    rules      policy: the decision, to be read first; policy_document, conditions and patterns
               under it; grants beside it; facts: what policies can ask of a request
    ports      keystore: what a KMS needs of an HSM; home_token is that on the home's token, by
               pkcs11 (keys), pkcs11_session (library and login), token (files) and pin;
               key_stores: further tokens, each through remote_store in a process of its own
               (key_store_process)
    engines    catalog and view (what must survive), keyring, principals and grant_items (what its
               items are), register (which records are current), audit (the log), lock (one writer
               at a time)

Locks are taken in this order: the catalogue's mutex (threads), the home's writer lock (processes),
SQLite's transaction, the HSM's lock. Encryption and decryption hold the HSM's lock alone.
"""
