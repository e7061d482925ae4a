"""This host's part in backups, as the roles describe it: backup.json (role backup) and store.json (role backup_store)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

CONFIGURATION = Path("/etc/image-editor-backup")
STATE = Path("/var/lib/image-editor-backup")
KINDS = ("postgresql", "redis", "media")
COMMAND = "/usr/local/sbin/image-editor-backup"


@dataclass(frozen=True)
class Host:
    """The settings of both files. Only the host that keeps the backups has the second one."""

    me: str
    media_hosts: list[str]  # each has every image, and one of them makes the backups
    kinds: list[str]  # kinds of backups that the platform has
    database: str
    database_owner: str
    conninfo: str  # from the host that keeps the backups, to whichever host is the primary
    local_conninfo: str  # on the database's own host, as its superuser
    postgresql_binaries: str
    postgresql_data: str
    postgresql_unit: str
    pgbackrest_options: list[str]  # for commands that work on a local directory although the database is elsewhere
    store: str  # URL of the store; empty if there is none
    media: str
    ca: str
    certificate: str
    private_key: str
    full_days: int
    dumps_kept: int
    repository: str = ""  # on the host that keeps the backups: a directory, or the name of a bucket
    keep_days: int = 0

    @classmethod
    def read(cls, directory: Path = CONFIGURATION) -> Host:
        """Read the descriptions. Entries of another version of a role are left out."""
        described = json.loads((directory / "backup.json").read_text())
        if (store := directory / "store.json").exists():
            described |= json.loads(store.read_text())
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in described.items() if name in known})

    def conninfo_for(self, database: str) -> str:
        """The local connection, to another database of the same server."""
        return self.local_conninfo.replace(f"dbname={self.database}", f"dbname={database}")
