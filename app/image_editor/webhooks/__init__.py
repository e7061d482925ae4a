"""Callbacks: the platform tells clients how their edits and batches ended."""
