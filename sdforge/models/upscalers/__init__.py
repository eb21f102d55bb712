"""Networks that enlarge pictures: found in folders, recognised by their headers, run in tiles.

In reading order: `shapes.py` (which network a file holds), `networks.py` (the networks),
`library.py` (which files there are), `loaded.py` (files → networks under leases), `enlarge.py`
(pictures through a network, tile by tile).
"""
