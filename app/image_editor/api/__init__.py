"""The HTTP API, version 1: schemas, checks, limits and the answers to errors."""
