"""Pages for people: self-contained HTML files of what a command found.

They need no network and nothing beside them, and run no code but their own.
"""
