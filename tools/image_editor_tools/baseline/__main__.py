"""``python -m image_editor_tools.baseline``: for the controller, which runs it from the checkout."""

import sys

from image_editor_tools.baseline.main import main

sys.exit(main())
