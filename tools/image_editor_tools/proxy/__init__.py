"""image-editor-proxy: where this host's proxy (HAProxy) leads, and how to pin Redis to a node by hand."""
