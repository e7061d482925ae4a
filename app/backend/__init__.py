"""The Django project and Celery application of the image editor."""

from backend.celery import app as celery_app

__all__ = ["celery_app"]
