"""Metrics, the heartbeat of workers, and what log lines share."""
