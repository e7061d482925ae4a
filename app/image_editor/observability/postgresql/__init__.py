"""Django's PostgreSQL backend, counting statements under django-prometheus' names: a DATABASES ENGINE."""
