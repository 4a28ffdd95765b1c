"""The management console: its line protocol and the rendering of replies."""
