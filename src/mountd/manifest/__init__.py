"""Text → values; it alone knows tomli and pydantic."""

import os

# A process of root's runs no plugins of whoever installed one, and doesn't look for any: 10 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
