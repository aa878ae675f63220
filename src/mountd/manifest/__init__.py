"""Text → values; it alone knows tomli and pydantic."""

import os

# A process of root's runs no plugins of whoever installed some, and doesn't look for any.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
