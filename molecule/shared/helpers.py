"""pytest helpers for all scenarios; a plugin (``-p helpers``), see .config/molecule/config.yml."""
