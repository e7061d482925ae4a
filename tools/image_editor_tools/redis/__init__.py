"""image-editor-redis: show or change the primary of the Redis set. For operators, and for role `redis`.

`members` describes the set, `discovery` asks its members, and `decision` draws conclusions without any input or output. The
other modules are one command each. The package runs on every Redis and Sentinel host, and needs no controller.
"""
