"""What a build asks of an application: its last migrations, and its static files."""

import json
import sys
from pathlib import Path

if sys.argv[1:] == ["schema", "leaves"]:
    print(json.dumps({"specimen": "0001_initial"}))
else:
    Path("static_collected").mkdir()
