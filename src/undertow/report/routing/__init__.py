"""The report of the routing study: one module for a few parts, put together by `page`."""
