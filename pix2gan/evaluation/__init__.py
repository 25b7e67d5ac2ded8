"""How good translations are.

``report``: scores of a folder of translated images against the real ones. ``held_out``: scores of a
translator on pairs that it was not trained on. ``scores``: what the two share. ``unpaired``: how
far translations are, as a set, from the target domain, beside controls. The metrics themselves,
which training needs as well, are ``pix2gan.image_metrics``.
"""
