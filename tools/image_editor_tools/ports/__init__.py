"""image-editor-ports: what listens on this host, and who may connect to it."""
