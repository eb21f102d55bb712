"""From finished pixels to files: infotext, picture formats, file names, grids, the writer thread.

Knows requests and results, nothing of models or jobs; never imports torch. Reading order:
`infotext.py` (how a picture was made, as A1111's text), `foreign.py` (the same from the data of
other programs), `images.py` (formats), `png.py` and `metadata.py` below it, `grid.py`,
`patterns.py` (file names), `new_file.py` (whole or not at all), `writer.py` (the thread).
"""
