"""What mixture normalization costs next to batch normalization and next to a copy.

``python -m bench --help``; README.md in this directory explains the figures and shows the latest.
"""

import time

STARTED = time.monotonic()
"""When this package was first imported: budgets count the imports that follow, too."""
