"""Pages: the report, and later the dashboard. Written on the api, with no logic of their own."""
