"""The operators' commands of the Image Editor platform.

Every folder is one command: ``image-editor-proxy`` is ``image_editor_tools.proxy.main``. Role `tools` installs
the package on hosts, without pip, and a launcher for each command. It runs on Debian's Python and libraries alone.
"""
