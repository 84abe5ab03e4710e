from __future__ import annotations

VALUE = "imported when it was needed"
