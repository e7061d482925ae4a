from django.apps import AppConfig


class ImageEditorConfig(AppConfig):
    name = "image_editor"
    verbose_name = "Image editor"
