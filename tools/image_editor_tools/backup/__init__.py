"""image-editor-backup: make backups, list them, verify them, and restore them.

Timers, operators (docs/restore.md) and the roles backup and restore call it. Modules by subject:

host           this host's part in backups, as role backup describes it in backup.json
moments        times as operators write them; ages
guards         one run of a kind at a time; enough disk space
metrics        what the node exporter shows
contents       what is in a database: rows, hashes, migrations; comparing two of them
database       reading that from PostgreSQL, and marking a backup
pgbackrest     the repository of the database's backups
wal            positions in the write-ahead log
instance       a PostgreSQL server on a restored directory
postgresql     back up and restore the database
dumps          logical dumps of the database
postgres_user  commands that only the user postgres can run
restic         the store of Redis's dumps, images and logical dumps
redis, media   back up, restore and verify one kind
ownership      whose backups the store has: this host's, or those of a host before it
first          the first backup of a kind
units          start a timer's service now
verification   restore the newest backups into scratch directories and compare
copies         copies of the repositories, which no other host reaches
status         the report for operators
main           the command line

A command that fails leaves the old data in place, and says in one line why it failed.
"""
