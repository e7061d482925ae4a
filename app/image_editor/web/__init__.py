"""What surrounds requests: pages for people, middleware and health probes."""
