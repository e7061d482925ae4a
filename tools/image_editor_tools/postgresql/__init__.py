"""image-editor-postgresql: show or change the primary of the PostgreSQL cluster. For operators, and for role `postgresql`.

`members` describes the cluster and says what is wrong with it, `connection` asks Patroni and etcd. The other modules are the
commands. Patroni itself decides who is primary; this package asks it, by its REST API.
"""
