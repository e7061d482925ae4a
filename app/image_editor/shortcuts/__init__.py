"""The places where the application goes past a library, because a client waits noticeably less.

Each module says its figure, and tests/shortcuts compares it with the library. No other module does this.
"""
