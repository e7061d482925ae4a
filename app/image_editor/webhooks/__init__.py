"""Callbacks: telling clients how their edits and batches ended."""
