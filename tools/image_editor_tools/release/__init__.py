"""image-editor-release: the releases of the application on this host."""
