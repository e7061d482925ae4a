"""Static files, named after their content."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFilesStorage(CompressedManifestStaticFilesStorage):
    """Also gives the modules of the page's script these names where another module names them."""

    support_js_module_import_aggregation = True
