"""Cells: several gateway processes on one machine behind one port, under a supervisor, with a spool file each.

`supervisor` starts and restarts them and has the management port; `cell` is what runs in each; `siblings` is what they
tell one another. Neither serves a request or knows a provider: that is the gateway's, which runs in every cell.
"""
