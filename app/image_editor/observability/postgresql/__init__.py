"""A DATABASES ENGINE: image_editor.postgresql, which counts statements under django-prometheus' names."""
