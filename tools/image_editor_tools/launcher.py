#!/usr/bin/python3 -IB
"""Run the command after which this file is named: as /usr/local/sbin/image-editor-redis it runs image_editor_tools.redis.

Role tools copies this file for each command of a host. -I: the caller's environment and directory have no influence. -B: no
bytecode beside the package.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, "/usr/local/lib/image-editor-tools")
sys.exit(import_module(f"image_editor_tools.{Path(__file__).name.removeprefix('image-editor-')}.main").main())
