"""`python -m undertow` is the same as `undertow`."""

from __future__ import annotations

from undertow.cli import main

if __name__ == "__main__":
    main()
