"""Turn results into pages, pictures and summaries: no network, no server, no other file.

Imports nothing: whoever only writes JSON shall not wait for what lays out pages.
"""
