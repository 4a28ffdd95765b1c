"""The nouns: services, pools, plugins, exchanges. No sockets, no asyncio."""
