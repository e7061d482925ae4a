"""image-editor-proxy: where this host's Redis proxy (HAProxy) leads, and how to pin it to a node by hand."""
