"""Networks that find faces and restore them: GFPGAN, CodeFormer and the RetinaFace they lean on.

In reading order: `shapes.py` (which network a file holds), `gfpgan.py`, `codeformer.py` and
`retinaface.py` (the networks), `library.py` (which files there are), `restoring.py` (faces through
networks, under leases). Where a face lies in a picture and how it is put back is arithmetic of
pictures: `postprocess/faces.py`.
"""
