"""How good translations are.

``report``: scores of a folder of translated images against the real ones, as JSON and, by ``page``,
as pictures. ``held_out``: scores of a translator on pairs that it was not trained on. ``scores``:
what the two share. ``features``: networks from a file, for FID, KID and LPIPS, which are
``set_distances``. ``unpaired``: how far translations are, as a set, from the target domain, beside
controls. The metrics themselves, which training needs as well, are ``pix2gan.image_metrics``.
"""
