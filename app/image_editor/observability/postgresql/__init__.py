"""A DATABASES ENGINE: Django's PostgreSQL backend, which counts statements under django-prometheus' names."""
