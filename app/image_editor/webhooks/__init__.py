"""Webhooks: the platform tells clients how their edits and batches ended.

`callbacks` delivers, repeats and records. `signing_secrets` and `signature` sign. `receivers` decides when a receiver
may be called. `tasks` has the Celery task.
"""
