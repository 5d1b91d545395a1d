"""The KMS on the wire: HTTP as AWS speaks it, the socket of a home, and the clients of both.

`claim`, `signature` and `messages` know bytes and values only. `credentials` knows access keys,
`engine` the one thread that works for all connections, `app` what becomes of a request, `http` what
a connection may do, `listener` where to listen. `home_socket` and `home_client` are the two ends of
the socket through which the other processes of a home reach the one that holds it; `remote` is the
client of any KMS that speaks AWS's protocol.
"""
