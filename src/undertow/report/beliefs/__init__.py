"""The report of the beliefs study: one module for a few parts, put together by `page`."""
